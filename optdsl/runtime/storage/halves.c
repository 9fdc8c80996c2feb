/* Parameters of 16 bits, and what is kept beside them: the codecs of rounding.py, bit for bit, each
 * a macro that makes its functions. Goes behind storage.c, and behind `bits` and `number` (numbers.c,
 * or generated kernels).
 */

/* A hash of 32 bits: 16 for each of two elements, the first of which takes the lower ones. Numbers
 * in a row are one addition apart before they are mixed (a Weyl sequence): what is left is one
 * product, where a hash of its own for each number would need two. */
#define WEYL 0x9e3779b9u
static inline unsigned scatter(unsigned x)  // of WEYL times a number
{
    x = (x ^ (x << 6 | x >> 26) ^ (x << 17 | x >> 15)) * 0x85ebca6bu;
    return x ^ x >> 15;
}

/* Asks for what lies 1 KiB ahead, as kernels do of all but strips. */
static inline void ask(const void *at, i64 bytes)
{
    for (i64 i = 1024; i < 1024 + bytes; i += 64) __builtin_prefetch((const char *)at + i);
}

/* As generated kernels widen and narrow (templates/cpu/narrow.c.j2). */
static inline float from_bf16(u16 x) { return number((unsigned)x << 16); }
static inline unsigned to_bf16(float x)
{
    const unsigned w = bits(x), near = w + (w & 0x10000 ? 0x8000 : 0x7fff);
    return (x != x ? 0x7fc00000 : near) >> 16;
}
static inline float from_fp16(u16 x)
{
    const unsigned code = x & 0x7fff;
    const unsigned normal = (code << 13) + (code < 0x7c00 ? 0x38000000 : 0x70000000);
    const float small = (int)code * 0x1p-24f;  // never from a subnormal float: 150 cycles each
    return number((code < 0x400 ? bits(small) : normal) | (unsigned)(x & 0x8000) << 16);
}
/* Codes of fp16 count steps of 2^-24 up to 2^-14, whose code is 0x400, and go on from there with
 * the bits of a float. Both parts are worked out, and infinity is the most: what gcc would make a
 * branch of, it would make no vectors of. */
#define LOW(x) ((bits(x) & 0x7fffffff) < 0x38800000 ? bits(x) & 0x7fffffff : 0x38800000)
#define HIGH(x) ((bits(x) & 0x7fffffff) + 0x38800000 - LOW(x))
static inline unsigned fp16_of(float x, unsigned steps, unsigned rest)
{
    const unsigned code = steps + ((HIGH(x) - 0x38000000 + rest) >> 13) - 0x400;
    const unsigned finite = code < 0x7c00 ? code : 0x7c00;
    return (bits(x) >> 16 & 0x8000) | finite | (unsigned)(x != x) << 9;
}
static inline unsigned to_fp16(float x)
{
    const unsigned steps = bits(number(LOW(x)) + 0.5f) - 0x3f000000;
    return fp16_of(x, steps, 0xfff + (HIGH(x) >> 13 & 1));
}

static inline unsigned up_bf16(float x, unsigned random)
{
    return (x != x ? 0x7fc00000 : bits(x) + random) >> 16;
}
static inline unsigned up_fp16(float x, unsigned random)
{
    const float steps = number(LOW(x)) * 0x1p24f;
    const int below = (int)steps;
    return fp16_of(x, below + ((int)random < (steps - below) * 65536.0f), random >> 3);
}

/* A parameter of 16 bits that rounds at random: `beside` is the key of this step. Tasks begin with
 * an even element. */
#define STOCHASTIC(half) \
    LOAD(stochastic_##half) \
    { \
        const u16 *restrict p = (const u16 *)kept + lo; \
        ask(p, 2 * n); \
        ELEMENTS x[i] = from_##half(p[i]); \
    } \
    SAVE(stochastic_##half) \
    { \
        u16 *restrict p = (u16 *)kept + lo; \
        const unsigned key = ((unsigned)(i64)beside + (unsigned)(lo >> 1)) * WEYL; \
        _Pragma("omp simd") for (i64 k = 0; k < n / 2; k++) { \
            const unsigned random = scatter(key + (unsigned)k * WEYL); \
            p[2 * k] = up_##half(x[2 * k], random & 0xffff); \
            p[2 * k + 1] = up_##half(x[2 * k + 1], random >> 16); \
        } \
        if (n & 1) \
            p[n - 1] = up_##half(x[n - 1], scatter(key + (unsigned)(n >> 1) * WEYL) & 0xffff); \
    }

/* Its float32 master; a parameter that is not that, rounded, was changed by hand. */
#define MASTER(half) \
    LOAD(master_##half) \
    { \
        const u16 *restrict p = (const u16 *)kept + lo; \
        const float *restrict master = (const float *)beside + lo; \
        ask(p, 2 * n), ask(master, 4 * n); \
        ELEMENTS x[i] = to_##half(master[i]) == p[i] ? master[i] : from_##half(p[i]); \
    } \
    SAVE(master_##half) \
    { \
        u16 *restrict p = (u16 *)kept + lo; \
        float *restrict master = (float *)beside + lo; \
        ELEMENTS { master[i] = x[i]; p[i] = to_##half(x[i]); } \
    }

/* What its last rounding lost. */
#define KAHAN(half) \
    LOAD(kahan_##half) \
    { \
        const u16 *restrict p = (const u16 *)kept + lo, *restrict lost = (const u16 *)beside + lo; \
        ask(p, 2 * n), ask(lost, 2 * n); \
        ELEMENTS x[i] = from_##half(p[i]) + from_##half(lost[i]); \
    } \
    SAVE(kahan_##half) \
    { \
        u16 *restrict p = (u16 *)kept + lo, *restrict lost = (u16 *)beside + lo; \
        ELEMENTS { \
            p[i] = to_##half(x[i]); \
            const float rest = x[i] - from_##half(p[i]); \
            lost[i] = __builtin_fabsf(rest) < __builtin_inff() ? to_##half(rest) : 0; \
        } \
    }

/* The lower half of the bits, with a sign; the upper half rounds to nearest, ties away from zero. */
#define SPLIT(half) \
    LOAD(split_##half) \
    { \
        const u16 *restrict p = (const u16 *)kept + lo; \
        const short *restrict low = (const short *)beside + lo; \
        ask(p, 2 * n), ask(low, 2 * n); \
        ELEMENTS x[i] = number(((unsigned)p[i] << 16) + (unsigned)(int)low[i]); \
    } \
    SAVE(split_##half) \
    { \
        u16 *restrict p = (u16 *)kept + lo; \
        short *restrict low = (short *)beside + lo; \
        ELEMENTS { \
            const unsigned w = bits(x[i]); \
            p[i] = x[i] != x[i] ? w >> 16 | 0x40 : (w + 0x8000) >> 16; \
            low[i] = x[i] != x[i] ? 0 : (short)w; \
        } \
    }
