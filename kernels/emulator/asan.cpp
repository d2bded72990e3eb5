// Settings of AddressSanitizer for programs that hold the emulator.
#if defined(__SANITIZE_ADDRESS__)
// Fibers change stacks, so a frame must lie on its own; memory that a program keeps until its end is no mistake.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
    return "detect_stack_use_after_return=0:detect_leaks=0";
}
#endif
