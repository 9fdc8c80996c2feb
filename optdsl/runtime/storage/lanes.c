/* What codecs.c builds on: vectors, the scale of a block.
 *
 * Vectors of 16 numbers with AVX-512 (BW, DQ), else of 8. Between one instruction and what gcc makes
 * of a loop over them lies a factor of 3 in speed: seven operations are spelt out where they exist. */
#ifdef __AVX2__
#define _MM_MALLOC_H_INCLUDED  // would declare all of stdlib.h, `rand` and `div` too
#include <immintrin.h>
#endif
#if defined __AVX512BW__ && defined __AVX512DQ__
#define LANES 16
#else
#define LANES 8
#endif
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define AT(lanes, place) (*(lanes *)(place))
#define IN_LINES __attribute__((aligned(64)))
#define ALL(value) ((floats){} + (value))
static inline floats size(floats x) { return (floats)((ints)x & 0x7fffffff); }
static inline floats turned(floats x, floats y)  // -x where y is negative
{
    return (floats)((ints)x ^ ((ints)y & (int)0x80000000));
}

/* x y + z, rounded once; the smaller and the larger of two numbers; x, or y with the sign of x, if
 * that is nearer to 0, for y from 0 on; the places `at`, modulo LANES, of a table that is twice the
 * same eight numbers; `at`, and one more where x is not below y; the next LANES codes, and 2^23. */
#define OPERATIONS(fused, smaller, larger, nearer, picked, more, above) \
    static inline floats fma_of(floats x, floats y, floats z) { return (floats)(fused); } \
    static inline floats min_of(floats x, floats y) { return (floats)(smaller); } \
    static inline floats max_of(floats x, floats y) { return (floats)(larger); } \
    static inline floats least_of(floats x, floats y) { return (floats)(nearer); } \
    static inline floats pick(const float *table, ints at) { return (floats)(picked); } \
    static inline ints next_from(ints at, floats x, floats y) { return (ints)(more); } \
    static inline floats raised(const unsigned char *codes) { return (floats)(above); }
#define TWICE(...) {__VA_ARGS__, __VA_ARGS__}
#if defined __AVX512BW__ && defined __AVX512DQ__
#define V(x) ((__m512)(x))
#define I(x) ((__m512i)(x))
/* Of all four parts, 16 codes each, one takes a code to the lowest byte of each float. */
#define SPREAD \
    _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
OPERATIONS(_mm512_fmadd_ps(V(x), V(y), V(z)), _mm512_min_ps(V(x), V(y)), _mm512_max_ps(V(x), V(y)),
           _mm512_range_ps(V(x), V(y), 2), _mm512_permutexvar_ps(I(at), V(AT(floats, table))),
           _mm512_mask_add_epi32(I(at), _mm512_cmp_ps_mask(V(x), V(y), _CMP_GE_OQ), I(at),
                                 _mm512_set1_epi32(1)),
           _mm512_mask_shuffle_epi8(
               I(ALL(0x1p23f)), 0x1111111111111111,
               _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i_u *)codes)), SPREAD))
#elif defined __AVX2__ && defined __FMA__
#define V(x) ((__m256)(x))
OPERATIONS(_mm256_fmadd_ps(V(x), V(y), V(z)), _mm256_min_ps(V(x), V(y)), _mm256_max_ps(V(x), V(y)),
           turned(min_of(size(x), y), x),
           _mm256_permutevar8x32_ps(V(AT(floats, table)), (__m256i)at), at - (x >= y),
           (ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)codes)) | (ints)ALL(0x1p23f))
#else
#define EACH(value) ({ floats y_; for (int k = 0; k < LANES; k++) y_[k] = value; y_; })
OPERATIONS(EACH(__builtin_fmaf(x[k], y[k], z[k])), EACH(x[k] < y[k] ? x[k] : y[k]),
           EACH(x[k] > y[k] ? x[k] : y[k]), turned(min_of(size(x), y), x), EACH(table[at[k] & 7]),
           at - (x >= y), EACH(0x1p23f + codes[k]))
#endif

/* The integer below (x y + z) / 9, from 0 to 255, in the lowest eight bits. Rounded down, a number
 * does not pass a multiple of 9, nor, times a little more than 1/9, an integer. */
#if LANES == 16
#define DOWN(x, y, z) \
    _mm512_fmadd_round_ps(x, y, z, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)
static inline ints ninth(floats x, floats y, floats z)
{
    const __m512 sum = DOWN(V(x), V(y), V(z));
    return (ints)DOWN(sum, V(ALL(0x1.c71c72p-4f)), V(ALL(0x1.8p23f)));
}
#else
static inline ints ninth(floats x, floats y, floats z)
{
    const floats near = fma_of(fma_of(x, y, z), ALL(1 / 9.f), ALL(0x1.8p23f));
    const floats rest = fma_of(x, y, fma_of(near - 0x1.8p23f, ALL(-9), z));
    return (ints)near + ((ints)rest >> 31);
}
#endif

/* The scale of `n` numbers, their largest magnitude over `most`; NaN where one is not finite. */
static inline float block_scale(const float *x, float least, float most, int n)
{
    unsigned largest = 0;
    #pragma omp simd reduction(max : largest)
    for (int i = 0; i < n; i++) {
        const unsigned size = bits(x[i]) & 0x7fffffff;
        largest = size > largest ? size : largest;
    }
    if (largest >= 0x7f800000) return __builtin_nanf("");
    return (number(largest) < least ? least : number(largest)) / most;
}

/* x / scale, as a division rounds it, in a third of the time: what a product with the inverse leaves
 * of x, times the inverse, is added to it with one rounding (Markstein, 1990). Of a scale from 2^126
 * on the inverse would be subnormal. */
static inline void divided(const float *x, float scale, float *ratio, int n)
{
#if defined __FMA__ || defined __ARM_FEATURE_FMA
    const float inverse = 1 / scale, less = -inverse;  // so that -0 gives -0
    if (scale < 0x1p126f) {
        for (int i = 0; i < n; i++) {
            const float near = x[i] * inverse, over = __builtin_fmaf(near, scale, -x[i]);
            ratio[i] = __builtin_fmaf(over, less, near);
        }
        return;
    }
#endif
    for (int i = 0; i < n; i++) ratio[i] = x[i] / scale;
}

/* The lowest bytes of n codes. gcc's way takes nine instructions for 64 of them, this one seven. */
static inline void pack(const int *codes, unsigned char *packed, int n)
{
#if LANES == 16 && defined __AVX512VBMI__
    #define WORDS(from) I(AT(ints, codes + i + from))
    #define LOWEST(of, others) _mm512_ternarylogic_epi32(of, others, I((ints){} + 0xff), 0xac)
    static const unsigned char by_fours[64] IN_LINES = {
        0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60,
        1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61,
        2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62,
        3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59, 63};
    for (int i = 0; i < n; i += 64) {
        const __m512i low = LOWEST(WORDS(0), _mm512_slli_epi32(WORDS(16), 8));
        const __m512i high = LOWEST(WORDS(32), _mm512_slli_epi32(WORDS(48), 8));
        const __m512i all = _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
        AT(ints, packed + i) = (ints)_mm512_permutexvar_epi8(I(AT(ints, by_fours)), all);
    }
#else
    for (int i = 0; i < n; i++) packed[i] = codes[i];
#endif
}
