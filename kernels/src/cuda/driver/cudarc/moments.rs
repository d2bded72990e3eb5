//! Times on a GPU: timed events, kept for the next who needs one, so that a step creates none.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::cudarc::driver::sys::{self, CUevent, CUresult};

use super::Cudarc;
use super::call::check;
use super::context::Context;
use super::stream::{Event, Priority, Stream};
use crate::cuda::driver::Moments;
use crate::{KernelError, Result};

/// How long a comparison of the two clocks is good for: times come as f32 milliseconds, 4 microseconds apart then.
const CLOCK_IS_GOOD_FOR: Duration = Duration::from_secs(60);

/// How long the idle stream is asked before the host sleeps.
const QUESTIONS: Duration = Duration::from_millis(1);

/// `cuEventElapsedTime` as every driver has it. The bindings know its second version alone, which is of CUDA 12.8.
type ElapsedTime = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// What the handles of a GPU need for times.
pub(super) struct Times {
    elapsed_time: ElapsedTime,
    /// Timed events that mark nothing that anyone asks for.
    idle: Mutex<Vec<Event>>,
    clock: Mutex<Option<Clock>>,
    context: Arc<Context>,
}

/// A point of the GPU's time by the host's clock.
struct Clock {
    event: Event,
    at: Instant,
}

/// A point in the work of a stream, with its time.
pub struct CudaMoment {
    /// There until it is dropped.
    event: Option<Event>,
    times: Arc<Times>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Times {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        let context = Arc::clone(context);
        Ok(Times { elapsed_time: elapsed_time()?, idle: Mutex::default(), clock: Mutex::default(), context })
    }

    /// A timed event, behind all work of a stream.
    fn mark(self: &Arc<Self>, stream: &Stream) -> Result<CudaMoment> {
        let idle = lock(&self.idle).pop();
        let event = idle.map_or_else(|| Event::timed(&self.context), Ok)?;
        let moment = CudaMoment { event: Some(event), times: Arc::clone(self) };
        moment.event().record(stream)?;
        Ok(moment)
    }

    /// From one event to another, in milliseconds; less than nothing if `to` was the earlier.
    fn elapsed_ms(&self, from: &Event, to: &Event) -> Result<Option<f64>> {
        self.context.enter()?;
        let mut ms = 0.0;
        // SAFETY: the driver's own function, of this signature; it writes one number. Both events are alive, were made
        // to have times, and have been recorded.
        match unsafe { (self.elapsed_time)(&mut ms, from.raw(), to.raw()) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(None),
            answer => check("cuEventElapsedTime", answer).map(|()| Some(f64::from(ms))),
        }
    }

    fn reached_at(&self, moment: &CudaMoment) -> Result<Option<Instant>> {
        if !moment.event().is_reached()? {
            return Ok(None);
        }
        let mut clock = lock(&self.clock);
        let clock = match &mut *clock {
            Some(clock) if clock.at.elapsed() < CLOCK_IS_GOOD_FOR => clock,
            clock => clock.insert(Clock::read(&self.context)?),
        };
        let after_ms = self.elapsed_ms(&clock.event, moment.event())?;
        let length = |ms: f64| Duration::from_secs_f64(ms.abs() / 1e3);
        Ok(after_ms.map(|ms| if ms < 0.0 { clock.at - length(ms) } else { clock.at + length(ms) }))
    }
}

impl Clock {
    /// An event on a stream that has nothing else to do is reached at once, whatever other streams do.
    fn read(context: &Arc<Context>) -> Result<Self> {
        let (stream, event) = (Stream::new(context, Priority::High)?, Event::timed(context)?);
        event.record(&stream)?;
        let since = Instant::now();
        while !event.is_reached()? {
            if since.elapsed() > QUESTIONS {
                event.synchronize()?;
            }
        }
        Ok(Clock { event, at: Instant::now() })
    }
}

/// Asks the driver for the first version.
fn elapsed_time() -> Result<ElapsedTime> {
    const CUDA_12_4: i32 = 12_040;
    let (name, mut address) = (c"cuEventElapsedTime", std::ptr::null_mut::<c_void>());
    // SAFETY: the name ends with a zero; the driver writes one address, and the reason of a failure nowhere.
    let answer =
        unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, CUDA_12_4, 0, std::ptr::null_mut()) };
    check("cuGetProcAddress of cuEventElapsedTime", answer)?;
    if address.is_null() {
        return Err(KernelError::Device(
            "the driver has no cuEventElapsedTime; hint: install a newer one".into(),
        ));
    }
    // SAFETY: not null, and the address of the function of this name in CUDA 12.4, whose signature this is.
    Ok(unsafe { std::mem::transmute::<*mut c_void, ElapsedTime>(address) })
}

impl CudaMoment {
    fn event(&self) -> &Event {
        self.event.as_ref().expect("it is taken by drop alone")
    }
}

impl Drop for CudaMoment {
    /// The next to record it need not wait until this point is reached: an event marks the last point alone.
    fn drop(&mut self) {
        lock(&self.times.idle).extend(self.event.take());
    }
}

impl Moments for Cudarc {
    type Moment = CudaMoment;

    fn moment(&self) -> Result<CudaMoment> {
        self.refuse_in_capture("moment")?;
        self.times.mark(&self.stream)
    }

    fn elapsed(&self, from: &CudaMoment, to: &CudaMoment) -> Result<Option<Duration>> {
        let ms = self.times.elapsed_ms(from.event(), to.event())?;
        Ok(ms.map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1e3)))
    }

    fn reached_at(&self, moment: &CudaMoment) -> Result<Option<Instant>> {
        self.times.reached_at(moment)
    }
}
