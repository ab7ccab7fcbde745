// Vectors of LANES elements: loads and stores of every data type. Included by dicenas_cpu_kernels.h.

typedef float Vector __attribute__((vector_size(LANES * 4)));
// Double precision is there to be exact: the compiler splits these vectors into what the machine has.
typedef double DoubleVector __attribute__((vector_size(LANES * 8)));

template <class S>
struct PackOf {
  typedef Vector Type;
};
template <>
struct PackOf<double> {
  typedef DoubleVector Type;
};
// LANES elements in the arithmetic of S.
template <class S>
using Pack = typename PackOf<S>::Type;

static inline Vector broadcast(float value) { return value - Vector{}; }
static inline DoubleVector broadcast(double value) { return value - DoubleVector{}; }

static inline Vector load(const float* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(float* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }

static inline DoubleVector load(const double* p) {
  DoubleVector v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

static inline void store(double* p, DoubleVector v) { __builtin_memcpy(p, &v, sizeof v); }

static inline Vector load(const BFloat16* p) {
  typedef uint16_t Half __attribute__((vector_size(LANES * 2)));
  typedef uint32_t Word __attribute__((vector_size(LANES * 4)));
  Half bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return (Vector)(__builtin_convertvector(bits, Word) << 16);
}

static inline void store(BFloat16* p, Vector v) {
  typedef uint16_t Half __attribute__((vector_size(LANES * 2)));
  typedef uint32_t Word __attribute__((vector_size(LANES * 4)));
  Word bits = (Word)v;
  const Word rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  bits = v == v ? rounded : (bits >> 16) | 0x40;
  const Half half = __builtin_convertvector(bits, Half);
  __builtin_memcpy(p, &half, sizeof half);
}

static inline Vector load(const Float16* p) {
  Vector v;
#ifdef __F16C__
  for (int i = 0; i < LANES; i += 8) {
    const __m256 eight = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + i)));
    __builtin_memcpy((float*)&v + i, &eight, sizeof eight);
  }
#else
  for (int i = 0; i < LANES; ++i) v[i] = to_float(p[i]);
#endif
  return v;
}

static inline void store(Float16* p, Vector v) {
#ifdef __F16C__
  for (int i = 0; i < LANES; i += 8) {
    __m256 eight;
    __builtin_memcpy(&eight, (const float*)&v + i, sizeof eight);
    _mm_storeu_si128((__m128i*)(p + i), _mm256_cvtps_ph(eight, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  for (int i = 0; i < LANES; ++i) p[i] = from_float<Float16>(v[i]);
#endif
}

template <class T, class V>
static inline void store_first(T* p, V v, int64_t count) {
  constexpr int HALF = LANES / 2;
  T all[LANES];
  store(all, v);
  if (count < HALF) {
    for (int64_t i = 0; i < count; ++i) p[i] = all[i];
    return;
  }
  // Two halves that overlap.
  __builtin_memcpy(p, all, sizeof all / 2);
  __builtin_memcpy(p + count - HALF, all + count - HALF, sizeof all / 2);
}

// weight * prelu(v, slope), with `negative` = weight * slope. By the sign bit, which costs one instruction where there
// is one for it; zeros of either sign and NaN give the same product.
static inline Vector weighted_prelu(Vector v, Vector weight, Vector negative) {
#if defined(__AVX__) && LANES == 8
  return v * (Vector)_mm256_blendv_ps((__m256)weight, (__m256)negative, (__m256)v);
#else
  return v * (v > 0 ? weight : negative);
#endif
}

// Fetches lines into the cache that are written later, here and there, where nothing else would see them coming.
template <class T>
static inline void prefetch(const T* at, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / (int64_t)sizeof(T)) __builtin_prefetch(at + i, 1, 2);
}

static inline float sum_lanes(Vector v) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += v[i];
  return total;
}
