// Marks for code that both compilers see, and for loops worth a second version on newer CPUs.
#pragma once

#ifdef __CUDACC__
#define QKR_HOST_DEVICE __host__ __device__
#else
#define QKR_HOST_DEVICE
#endif

// Compiles a function twice, for any x86-64 and for AVX2 + FMA, and picks at load time. The results are the same bits as long
// as every fused multiply-add is spelled fmaf. Off under sanitizers: their runtime is not up when the choice is made.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define QKR_CPU_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define QKR_CPU_CLONES
#endif
