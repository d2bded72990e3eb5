//! `tisserand generate`

use std::time::Instant;

use tisserand_collectives::Mesh;
use tisserand_runtime::decoder::Decoder;
use tisserand_runtime::inference::ModelFolder;
use tisserand_runtime::log::units;
use tisserand_runtime::model_config::ModelConfig;
use tisserand_runtime::parallel::Sharding;
use tisserand_runtime::sampling::{Sampling, sample};
use tisserand_runtime::tokenizer::Tokenizer;
use tisserand_runtime::{Error, Result};

use super::DONE;
use crate::threads;
use crate::world::Terms;
use crate::{cli, device, output};

/// Prints the prompt and its continuation as it is generated.
pub(super) fn run(arguments: &cli::Generate) -> Result<u8> {
    let sampling = sampling(arguments)?;
    let folder = ModelFolder::open(&arguments.checkpoint)?;
    folder.warning.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let tokenizer = match &arguments.tokenizer {
        Some(path) => Tokenizer::open(path)?,
        None => Tokenizer::open(folder.require_tokenizer()?)?,
    };
    if tokenizer.vocab_size() > folder.config.vocab_size {
        return Err(Error::input(format!(
            "the tokenizer has {} entries, the model {}; hint: --tokenizer FILE with the tokenizer that the model \
             was trained with",
            tokenizer.vocab_size(),
            folder.config.vocab_size
        )));
    }
    let prompt = prompt_tokens(&tokenizer, &arguments.prompt)?;
    let capacity = capacity(prompt.len(), arguments.max_tokens)?;
    let mesh = mesh(arguments, &folder.config)?;
    threads::join(arguments.ranks, &Terms::passing(), |place, control| {
        let sharding = Sharding { mesh, rank: control.rank(), zero: 3, mesh_invariant: false };
        let mut decoder =
            device::decoder(arguments.threads, &folder, place, sharding, prompt.len(), capacity)?;
        // Every rank computes the same logits and draws the same tokens; one says so.
        let shows = control.rank() == 0;
        if shows {
            output::piece(&arguments.prompt)?;
        }
        generate(decoder.as_mut(), &tokenizer, sampling, &prompt, arguments.max_tokens, shows)
    })?;
    Ok(DONE)
}

/// All ranks along `tp` as far as the heads allow, unless told otherwise.
fn mesh(arguments: &cli::Generate, model: &ModelConfig) -> Result<Mesh> {
    let ranks = arguments.ranks;
    let fits = |tp: &usize| {
        let key_heads = model.num_kv_heads;
        let cuts_key_heads = key_heads.is_multiple_of(*tp) || tp.is_multiple_of(key_heads);
        let cut = [ranks, model.num_heads, model.intermediate_size];
        *tp > 0 && cuts_key_heads && cut.iter().all(|extent| extent.is_multiple_of(*tp))
    };
    let good: Vec<usize> = (1..=ranks).filter(fits).collect();
    match arguments.tp {
        None => Ok(good.last().copied().unwrap_or(1)),
        Some(tp) if fits(&tp) => Ok(tp),
        Some(tp) => Err(Error::input(format!(
            "--tp {tp}: must divide --ranks {ranks}, the model's {} heads and {} intermediate columns; hint: {} would do",
            model.num_heads,
            model.intermediate_size,
            good.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        ))),
    }
    .map(|tp| Mesh::new(1, ranks / tp, tp))
}

fn sampling(arguments: &cli::Generate) -> Result<Sampling> {
    let cli::Generate { temperature, top_k, top_p, seed, .. } = *arguments;
    if !(temperature.is_finite() && temperature >= 0.0) {
        return Err(Error::input(format!("--temperature {temperature}: must be 0 or more")));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Error::input(format!("--top-p {top_p}: must be above 0 and at most 1")));
    }
    Ok(Sampling { temperature, top_k, top_p, seed })
}

/// Tokens of prompt and continuation: positions are 32 bits wide.
fn capacity(prompt: usize, max_tokens: usize) -> Result<usize> {
    let most = i32::MAX as usize;
    prompt.checked_add(max_tokens).filter(|tokens| *tokens <= most).ok_or_else(|| {
        Error::input(format!(
            "--max-tokens {max_tokens}: with {prompt} of the prompt more than {most} tokens"
        ))
    })
}

/// The prompt's tokens; without a prompt, the token that ends every document begins the next.
fn prompt_tokens(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    let tokens = tokenizer.encode_prompt(prompt)?;
    if tokens.is_empty() { Ok(vec![tokenizer.require_end_of_text()?]) } else { Ok(tokens) }
}

fn generate(
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    sampling: Sampling,
    prompt: &[u32],
    max_tokens: usize,
    shows: bool,
) -> Result<()> {
    let show = |text: &str| if shows { output::piece(text) } else { Ok(()) };
    let start = Instant::now();
    let mut stream = tokenizer.stream();
    let mut new_tokens = prompt.to_vec();
    let mut generated = 0;
    while generated < max_tokens {
        let logits = decoder.extend(&new_tokens)?;
        // Rows beyond the tokenizer's entries stand for no token.
        let token = sample(&sampling, &logits[..tokenizer.vocab_size()], generated as u64);
        if tokenizer.end_of_text() == Some(token) {
            break;
        }
        show(&stream.push(token)?)?;
        generated += 1;
        new_tokens = vec![token];
    }
    show("\n")?;
    if !shows {
        return Ok(());
    }
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{generated} tokens, {} tokens/s", units::rate(generated as f64 / seconds));
    Ok(())
}
