// The fp64 tensor-core product of one warp: C [16, 8] += A [16, 8] B [8, 8], PTX mma.sync.m16n8k8, native from compute capability
// 9.0 on; on 8.x the same product out of four m8n8k4. Lane 4 g + t holds
//   a = A(g, t), A(g+8, t), A(g, t+4), A(g+8, t+4);   b = B(t, g), B(t+4, g);   c = C(g, 2t), C(g, 2t+1), C(g+8, 2t), C(g+8, 2t+1).
#pragma once

namespace qkr {

struct MmaLane {
  int g, t;
};

__device__ inline MmaLane mma_lane() {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  return {lane >> 2, lane & 3};
}

#if __CUDA_ARCH__ < 900
__device__ inline void mma_m8n8k4(double& c0, double& c1, double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};\n" : "+d"(c0), "+d"(c1) : "d"(a), "d"(b));
}
#endif

__device__ inline void mma_m16n8k8(double (&c)[4], const double (&a)[4], const double (&b)[2]) {
#if __CUDA_ARCH__ >= 900
  asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#else
  mma_m8n8k4(c[0], c[1], a[0], b[0]);
  mma_m8n8k4(c[2], c[3], a[1], b[0]);
  mma_m8n8k4(c[0], c[1], a[2], b[1]);
  mma_m8n8k4(c[2], c[3], a[3], b[1]);
#endif
}

}  // namespace qkr
