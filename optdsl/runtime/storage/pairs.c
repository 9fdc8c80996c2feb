/* Strips of 64 bfloat16 as float32 in another order: of 32 the even ones, then the odd ones. So
 * they come out of words of two, and go back, by an instruction or two, where the usual order needs
 * shuffles; to a kernel that finds all its buffers so, it is all the same. What is left behind the
 * last strip stands in the usual order. Goes behind halves.c; words begin with their lower half.
 */
#define PAIRS(lines) \
    for (int i = 0; i < 64; i += 32) { _Pragma("omp simd") for (int k = 0; k < 16; k++) { lines } }
#define WORD(p) ((word *)((p) + i))[k]
#define EVEN x[i + k]
#define ODD x[i + 16 + k]
#define SELDOM(condition) __builtin_expect(condition, 0)
typedef unsigned word __attribute__((aligned(2)));

#ifdef __AVX512BF16__
#define _MM_MALLOC_H_INCLUDED  // would declare all of stdlib.h, `rand` and `div` too
#include <immintrin.h>
typedef word words __attribute__((vector_size(64), aligned(2)));
#define NUMBERS(at) _mm512_loadu_ps(x + at)
#define CLASS(at, classes) _mm512_fpclass_ps_mask(NUMBERS(at), classes)
#define ANY(of) (CLASS(0, of) | CLASS(16, of) | CLASS(32, of) | CLASS(48, of))
static inline int has_nan(const float *x) { return ANY(0x81); }
/* Rounds a strip to nearest by the processor, unless it has a subnormal number, which would become
 * 0, or a NaN, which would become another. */
static inline int narrowed(const float *x, u16 *p)
{
    const __m512i by_turns = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    if (SELDOM(ANY(0x20 | 0x81))) return 0;
    for (int i = 0; i < 64; i += 32) {
        const __m512i near = (__m512i)_mm512_cvtne2ps_pbh(NUMBERS(i + 16), NUMBERS(i));
        *(words *)(p + i) = (words)_mm512_permutexvar_epi16(by_turns, near);
    }
    return 1;
}
#else
static inline int has_nan(const float *x) { return 1; }
static inline int narrowed(const float *x, u16 *p) { return 0; }
#endif

LOAD(pairs_bf16)
{
    const u16 *p = (const u16 *)kept + lo;
    ask(p, 2 * n);
    if (n != 64)
        ELEMENTS x[i] = from_bf16(p[i]);
    else
        PAIRS(EVEN = number(WORD(p) << 16); ODD = number(WORD(p) & 0xffff0000);)
}
SAVE(pairs_bf16)
{
    u16 *p = (u16 *)kept + lo;
    if (n != 64)
        ELEMENTS p[i] = to_bf16(x[i]);
    else if (!narrowed(x, p))
        PAIRS(WORD(p) = to_bf16(EVEN) | to_bf16(ODD) << 16;)
}

STOCHASTIC(bf16)
/* Of a strip without a NaN; in one, up_bf16 asks each number. */
static inline unsigned up_usual(float x, unsigned random) { return (bits(x) + random) >> 16; }
#define ROUND_UP(up) \
    PAIRS( \
        const unsigned random = scatter(key + (unsigned)(i / 2 + k) * WEYL); \
        WORD(p) = up(EVEN, random & 0xffff) | up(ODD, random >> 16) << 16; \
    )
LOAD(pairs_stochastic_bf16) { load_pairs_bf16(x, kept, beside, lo, n); }
SAVE(pairs_stochastic_bf16)
{
    u16 *p = (u16 *)kept + lo;
    const unsigned key = ((unsigned)(i64)beside + (unsigned)(lo >> 1)) * WEYL;
    if (n != 64)
        save_stochastic_bf16(x, kept, beside, lo, n);
    else if (SELDOM(has_nan(x)))
        ROUND_UP(up_bf16)
    else
        ROUND_UP(up_usual)
}
