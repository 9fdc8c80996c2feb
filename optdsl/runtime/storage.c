/* Values that kernels find as float32, loaded from how they are kept before a task, and saved behind
 * it: the codecs of rounding.py, bit for bit; those of codecs.c follow. A function works on the
 * elements [lo, lo + n) of one tensor, whose elements begin at `kept`; what lies `beside` them is a
 * tensor, too, or a number.
 */
typedef long long i64;
typedef unsigned short u16;

#define ELEMENTS _Pragma("omp simd") for (i64 i = 0; i < n; i++)
#define LOAD(name) \
    void load_##name(float *restrict x, const void *kept, const void *beside, i64 lo, i64 n)
#define SAVE(name) \
    void save_##name(const float *restrict x, void *kept, void *beside, i64 lo, i64 n)

static inline unsigned bits(float x) { unsigned w; __builtin_memcpy(&w, &x, 4); return w; }
static inline float number(unsigned w) { float x; __builtin_memcpy(&x, &w, 4); return x; }

/* A hash of 32 bits: 16 for each of two elements. */
static inline unsigned scatter(unsigned x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* As generated kernels widen and narrow (templates/cpu/narrow.c.j2). */
static inline float from_bf16(u16 x) { return number((unsigned)x << 16); }
static inline u16 to_bf16(float x)
{
    const unsigned w = bits(x);
    return x != x ? w >> 16 | 0x40 : (w + 0x7fff + (w >> 16 & 1)) >> 16;
}
static inline float from_fp16(u16 x)
{
    const unsigned special = (x & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
    const unsigned size = bits(number((unsigned)(x & 0x7fff) << 13) * 0x1p112f) | special;
    return number(size | (unsigned)(x & 0x8000) << 16);
}
static inline u16 to_fp16(float x)
{
    const unsigned w = bits(x), size = w & 0x7fffffff;
    const unsigned normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
    const unsigned small = bits(number(size) + 0.5f) - 0x3f000000;
    const unsigned finite = size < 0x38800000 ? small : normal;
    return (w >> 16 & 0x8000) | (x != x ? 0x7e00 : size >= 0x477ff000 ? 0x7c00 : finite);
}

static inline u16 up_bf16(float x, unsigned random)
{
    const unsigned w = bits(x);
    return (x != x ? w | 0x400000 : w + random) >> 16;
}
static inline u16 up_fp16(float x, unsigned random)
{
    const float size = __builtin_fabsf(x), steps = size * 0x1p24f, below = __builtin_floorf(steps);
    const unsigned normal = (bits(x) + (random >> 3)) & 0xffffe000;
    const float small = (below + (random < (steps - below) * 65536.0f)) * 0x1p-24f;
    const unsigned sign = bits(x) & 0x80000000;
    return to_fp16(x != x ? x : number(size < 0x1p-14f ? bits(small) | sign : normal));
}

/* A parameter of 16 bits that rounds at random: `beside` is the key of this step. Tasks begin with
 * a multiple of 32 elements, of which the first half take upper halves, the others lower ones: 16
 * are what a vector of 256 bits stores at once. */
#define STOCHASTIC(half) \
    LOAD(stochastic_##half) \
    { \
        const u16 *restrict p = (const u16 *)kept + lo; \
        ELEMENTS x[i] = from_##half(p[i]); \
    } \
    SAVE(stochastic_##half) \
    { \
        u16 *restrict p = (u16 *)kept + lo; \
        const unsigned key = (unsigned)(i64)beside + (unsigned)(lo >> 1); \
        i64 i = 0; \
        for (; i + 32 <= n; i += 32) \
            _Pragma("omp simd") for (int k = 0; k < 16; k++) { \
                const unsigned random = scatter(key + (unsigned)(i >> 1) + k); \
                p[i + k] = up_##half(x[i + k], random >> 16); \
                p[i + 16 + k] = up_##half(x[i + 16 + k], random & 0xffff); \
            } \
        for (; i < n; i++) { \
            const unsigned random = scatter(key + (unsigned)(i >> 5 << 4) + (i & 15)); \
            p[i] = up_##half(x[i], i & 16 ? random & 0xffff : random >> 16); \
        } \
    }

/* Its float32 master; a parameter that is not that, rounded, was changed by hand. */
#define MASTER(half) \
    LOAD(master_##half) \
    { \
        const u16 *restrict p = (const u16 *)kept + lo; \
        const float *restrict master = (const float *)beside + lo; \
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

STOCHASTIC(bf16)
STOCHASTIC(fp16)
MASTER(bf16)
MASTER(fp16)
KAHAN(bf16)
KAHAN(fp16)

/* The lower half of the bits, with a sign; the upper half rounds to nearest, ties away from zero. */
LOAD(split_bf16)
{
    const u16 *restrict p = (const u16 *)kept + lo;
    const short *restrict low = (const short *)beside + lo;
    ELEMENTS x[i] = number(((unsigned)p[i] << 16) + (unsigned)(int)low[i]);
}
SAVE(split_bf16)
{
    u16 *restrict p = (u16 *)kept + lo;
    short *restrict low = (short *)beside + lo;
    ELEMENTS {
        const unsigned w = bits(x[i]);
        p[i] = x[i] != x[i] ? w >> 16 | 0x40 : (w + 0x8000) >> 16;
        low[i] = x[i] != x[i] ? 0 : (short)w;
    }
}

/* Codes of blocks, of which a task has whole ones: [lo, lo + n) begins with a block. */
#define BLOCKS(name, block, per_byte) \
    LOAD(name) \
    { \
        for (i64 i = 0; i < n; i += block) \
            decode_##name((const unsigned char *)kept + (lo + i) / per_byte, \
                          ((const float *)beside)[(lo + i) / block], x + i, \
                          n - i < block ? n - i : block); \
    } \
    SAVE(name) \
    { \
        for (i64 i = 0; i < n; i += block) \
            ((float *)beside)[(lo + i) / block] = \
                encode_##name(x + i, (unsigned char *)kept + (lo + i) / per_byte, \
                              n - i < block ? n - i : block); \
    }
#define real float
