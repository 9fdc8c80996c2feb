/* Made by optdsl/codegen/codecs.py; goes with storage.c. */
/* Eight lanes, where a loop is beyond the compiler: a look-up in eight numbers, one instruction. */
typedef float floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef int ints __attribute__((vector_size(32), aligned(4), may_alias));
#define EACH(lanes, value) ({ lanes y_; for (int k = 0; k < 8; k++) y_[k] = value; y_; })
#define ALL(value) EACH(floats, value)
#define FMA(x, y, z) EACH(floats, __builtin_fmaf((x)[k], (y)[k], (z)[k]))
static inline floats size(floats x) { return (floats)((ints)x & 0x7fffffff); }
static inline floats pick(const float *eight, ints at)
{
#ifdef __clang__
    return EACH(floats, eight[at[k] & 7]);
#else
    return __builtin_shuffle(*(const floats *)eight, at);
#endif
}

/* The scale of a block and its numbers over it; NaN where one of them is NaN or infinite. */
static inline float block_ratios(const real *x, float least, float most, float *ratio, int n)
{
    unsigned largest = 0;
    #pragma omp simd reduction(max : largest)
    for (int i = 0; i < n; i++) {
        const unsigned size = bits((float)x[i]) & 0x7fffffff;
        largest = size > largest ? size : largest;
    }
    if (largest >= 0x7f800000) return __builtin_nanf("");
    const float scale = (number(largest) < least ? least : number(largest)) / most;
    for (int i = 0; i < n; i++) ratio[i] = (float)x[i] / scale;
    for (int i = n; i & 7; i++) ratio[i] = 0;
    return scale;
}

/* The dynamic map. Code 127 is 0; beside it q counts entries, `bins` of them in a decade:
 * the entry is (18 q - 16 bins + 9) / divisor, rounded once, and the boundary below it lies where
 * ratio * step is 9 q - 8 bins, which one fma compares exactly. */
static const float int8_divisors[8] = {
    20000000.f, 4000000.f, 800000.f, 160000.f, 32000.f, 6400.f, 1280.f, 265.f,
};
static const float int8_steps[8] = {
    130.f, 10000000.f, 2000000.f, 400000.f, 80000.f, 16000.f, 3200.f, 640.f,
};
static const float int8_cuts[8] = {  // from here on a decade up
    0x1.27476ep-22f, 0x1.fe0702p-20f, 0x1.e68a0ep-17f, 0x1.00e6bp-13f,
    0x1.23a29ep-10f, 0x1.5a1caep-7f, 0x1.a51ebap-4f, 0x1.fe3334p-1f,
};
static inline floats int8_entry(ints code)
{
    const floats count = __builtin_convertvector(code - 127, floats), q = size(count);
    const floats bins = (floats)((ints)q & 0x7f800000);
    const floats divisor = pick(int8_divisors, ((ints)q >> 23) - 127);
    const ints entry = (ints)((18 * q - 16 * bins + 9) / divisor) & (q >= 1);
    return (floats)(entry | ((ints)count & (int)0x80000000));
}
/* By a straight line for the logarithm, which is one too low at most; 0 below the lowest decade. */
static inline ints int8_decade(floats ratio)
{
    const ints w = (ints)ratio, least = EACH(ints, w[k] > 0x34000000 ? w[k] : 0x34000000);
    const floats bits = __builtin_convertvector(least, floats);
    const floats log = FMA(bits, ALL(0x1.344136p-25f), ALL(-0x1.eee498p+4f));
    const ints at = __builtin_convertvector(log, ints);
    return at - (ratio >= pick(int8_cuts, at));
}
static inline ints int8_code(floats ratio, ints at, ints sign)
{
    const floats step = pick(int8_steps, at);
    const floats bins8 = (floats)((at + 129) << 23);
    const floats sum = FMA(FMA(ratio, step, bins8), ALL(1 / 9.f), ALL(0x1.8p23f));
    const floats rest = FMA(ratio, step, FMA(sum - 0x1.8p23f, ALL(-9), bins8));
    // One less below the boundary; of a negative number, whose ties go to 0, on it, too.
    const ints q = (ints)sum - 0x4b400000 + (((ints)rest + sign) >> 31);
    const ints last = (EACH(ints, 1) << at) - 1;
    const ints code = ((EACH(ints, q[k] < last[k] ? q[k] : last[k]) ^ sign) - sign) + 127;
    return EACH(ints, code[k] > 0 ? code[k] : 0);
}
static inline void int8_entries(const int *codes, float *entry, int n)
{
    for (int i = 0; i < n; i += 8) *(floats *)(entry + i) = int8_entry(*(ints *)(codes + i));
}
static inline void int8_nearest(const float *ratio, int *codes, int n)
{
    for (int i = 0; i < n; i += 8) {
        const floats x = *(floats *)(ratio + i);
        *(ints *)(codes + i) = int8_decade(size(x));
    }
    for (int i = 0; i < n; i += 8) {
        const floats x = *(floats *)(ratio + i);
        *(ints *)(codes + i) = int8_code(size(x), *(ints *)(codes + i), (ints)x >> 31);
    }
}

/* int8. At most 256 numbers, which share `scale`. */
static inline void decode_int8(const unsigned char *packed, float scale, real *x, int n)
{
    int codes[256];
    float entry[256];
    for (int i = 0; i < n; i++) codes[i] = packed[i];
    for (int i = n; i & 7; i++) codes[i] = 0;
    int8_entries(codes, entry, n);
    for (int i = 0; i < n; i++) x[i] = entry[i] * scale;
}
static inline float encode_int8(const real *x, unsigned char *packed, int n)
{
    int codes[256];
    float ratio[256];
    const float scale = block_ratios(x, 1e-12f, 1.f, ratio, n);
    if (scale != scale)  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < n; i++) codes[i] = 0;
    else
        int8_nearest(ratio, codes, n);
    for (int i = 0; i < n; i++) packed[i] = codes[i];
    return scale;
}

/* The dynamic map. Code 0 is 0; beside it q counts entries, `bins` of them in a decade:
 * the entry is (18 q - 16 bins + 9) / divisor, rounded once, and the boundary below it lies where
 * ratio * step is 9 q - 8 bins, which one fma compares exactly. */
static const float uint8_divisors[8] = {
    521.f, 40000000.f, 8000000.f, 1600000.f, 320000.f, 64000.f, 12800.f, 2560.f,
};
static const float uint8_steps[8] = {
    258.f, 20000000.f, 4000000.f, 800000.f, 160000.f, 32000.f, 6400.f, 1280.f,
};
static const float uint8_cuts[8] = {  // from here on a decade up
    0x1.5cf752p-23f, 0x1.853b3ep-20f, 0x1.9b0ab4p-17f, 0x1.d29dc8p-14f,
    0x1.14e3bep-10f, 0x1.50e562p-7f, 0x1.9f5c2ap-4f, 0x1.ff199ap-1f,
};
static inline floats uint8_entry(ints code)
{
    const floats count = __builtin_convertvector(code + 1, floats), q = size(count);
    const floats bins = (floats)((ints)q & 0x7f800000);
    const floats divisor = pick(uint8_divisors, ((ints)q >> 23) - 127);
    const ints entry = (ints)((18 * q - 16 * bins + 9) / divisor) & (q >= 2);
    return (floats)(entry | ((ints)count & (int)0x80000000));
}
/* By a straight line for the logarithm, which is one too low at most; 0 below the lowest decade. */
static inline ints uint8_decade(floats ratio)
{
    const ints w = (ints)ratio, least = EACH(ints, w[k] > 0x34000000 ? w[k] : 0x34000000);
    const floats bits = __builtin_convertvector(least, floats);
    const floats log = FMA(bits, ALL(0x1.344136p-25f), ALL(-0x1.eee498p+4f));
    const ints at = __builtin_convertvector(log, ints);
    return at - (ratio >= pick(uint8_cuts, at));
}
static inline ints uint8_code(floats ratio, ints at, ints sign)
{
    const floats step = pick(uint8_steps, at);
    const floats bins8 = (floats)((at + 130) << 23);
    const floats sum = FMA(FMA(ratio, step, bins8), ALL(1 / 9.f), ALL(0x1.8p23f));
    const floats rest = FMA(ratio, step, FMA(sum - 0x1.8p23f, ALL(-9), bins8));
    // One less below the boundary; of a negative number, whose ties go to 0, on it, too.
    const ints q = (ints)sum - 0x4b400000 + (((ints)rest + sign) >> 31);
    const ints last = (EACH(ints, 2) << at) - 1;
    const ints code = ((EACH(ints, q[k] < last[k] ? q[k] : last[k]) ^ sign) - sign) - 1;
    return EACH(ints, code[k] > 0 ? code[k] : 0);
}
static inline void uint8_entries(const int *codes, float *entry, int n)
{
    for (int i = 0; i < n; i += 8) *(floats *)(entry + i) = uint8_entry(*(ints *)(codes + i));
}
static inline void uint8_nearest(const float *ratio, int *codes, int n)
{
    for (int i = 0; i < n; i += 8) {
        const floats x = *(floats *)(ratio + i);
        *(ints *)(codes + i) = uint8_decade(x);
    }
    for (int i = 0; i < n; i += 8) {
        const floats x = *(floats *)(ratio + i);
        *(ints *)(codes + i) = uint8_code(x, *(ints *)(codes + i), EACH(ints, 0));
    }
}

/* int8, numbers from 0 on. At most 256 numbers, which share `scale`. */
static inline void decode_uint8(const unsigned char *packed, float scale, real *x, int n)
{
    int codes[256];
    float entry[256];
    for (int i = 0; i < n; i++) codes[i] = packed[i];
    for (int i = n; i & 7; i++) codes[i] = 0;
    uint8_entries(codes, entry, n);
    for (int i = 0; i < n; i++) x[i] = entry[i] * scale;
}
static inline float encode_uint8(const real *x, unsigned char *packed, int n)
{
    int codes[256];
    float ratio[256];
    const float scale = block_ratios(x, 1e-12f, 1.f, ratio, n);
    if (scale != scale)  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < n; i++) codes[i] = 0;
    else
        uint8_nearest(ratio, codes, n);
    for (int i = 0; i < n; i++) packed[i] = codes[i];
    return scale;
}

/* The dynamic map. Code 7 is 0; beside it q counts entries, `bins` of them in a decade:
 * the entry is (18 q - 16 bins + 9) / divisor, rounded once, and the boundary below it lies where
 * ratio * step is 9 q - 8 bins, which one fma compares exactly. */
static const float int4_divisors[8] = {
    2000.f, 400.f, 80.f, 25.f, 1.f, 1.f, 1.f, 1.f,
};
static const float int4_steps[8] = {
    10.f, 1000.f, 200.f, 40.f, 10.f, 10.f, 10.f, 10.f,
};
static const float int4_cuts[8] = {  // from here on a decade up
    0x1.6872b2p-9f, 0x1.374bc8p-6f, 0x1.28f5c4p-3f, 0x1.e33334p-1f,
    0x1p+1f, 0x1p+1f, 0x1p+1f, 0x1p+1f,
};
static inline floats int4_entry(ints code)
{
    const floats count = __builtin_convertvector(code - 7, floats), q = size(count);
    const floats bins = (floats)((ints)q & 0x7f800000);
    const floats divisor = pick(int4_divisors, ((ints)q >> 23) - 127);
    const ints entry = (ints)((18 * q - 16 * bins + 9) / divisor) & (q >= 1);
    return (floats)(entry | ((ints)count & (int)0x80000000));
}
/* By a straight line for the logarithm, which is one too low at most; 0 below the lowest decade. */
static inline ints int4_decade(floats ratio)
{
    const ints w = (ints)ratio, least = EACH(ints, w[k] > 0x3b000000 ? w[k] : 0x3b000000);
    const floats bits = __builtin_convertvector(least, floats);
    const floats log = FMA(bits, ALL(0x1.344136p-25f), ALL(-0x1.17724cp+5f));
    const ints at = __builtin_convertvector(log, ints);
    return at - (ratio >= pick(int4_cuts, at));
}
static inline ints int4_code(floats ratio, ints at, ints sign)
{
    const floats step = pick(int4_steps, at);
    const floats bins8 = (floats)((at + 129) << 23);
    const floats sum = FMA(FMA(ratio, step, bins8), ALL(1 / 9.f), ALL(0x1.8p23f));
    const floats rest = FMA(ratio, step, FMA(sum - 0x1.8p23f, ALL(-9), bins8));
    // One less below the boundary; of a negative number, whose ties go to 0, on it, too.
    const ints q = (ints)sum - 0x4b400000 + (((ints)rest + sign) >> 31);
    const ints last = (EACH(ints, 1) << at) - 1;
    const ints code = ((EACH(ints, q[k] < last[k] ? q[k] : last[k]) ^ sign) - sign) + 7;
    return EACH(ints, code[k] > 0 ? code[k] : 0);
}
static inline void int4_entries(const int *codes, float *entry, int n)
{
    for (int i = 0; i < n; i += 8) *(floats *)(entry + i) = int4_entry(*(ints *)(codes + i));
}
static inline void int4_nearest(const float *ratio, int *codes, int n)
{
    for (int i = 0; i < n; i += 8) {
        const floats x = *(floats *)(ratio + i);
        *(ints *)(codes + i) = int4_decade(size(x));
    }
    for (int i = 0; i < n; i += 8) {
        const floats x = *(floats *)(ratio + i);
        *(ints *)(codes + i) = int4_code(size(x), *(ints *)(codes + i), (ints)x >> 31);
    }
}

/* int4. At most 128 numbers, which share `scale`. */
static inline void decode_int4(const unsigned char *packed, float scale, real *x, int n)
{
    int codes[128];
    float entry[128];
    for (int i = 0; i < (n + 1) / 2; i++) {
        codes[2 * i] = packed[i] >> 4;
        codes[2 * i + 1] = packed[i] & 15;
    }
    for (int i = n + (n & 1); i & 7; i++) codes[i] = 0;
    int4_entries(codes, entry, n);
    for (int i = 0; i < n; i++) x[i] = entry[i] * scale;
}
static inline float encode_int4(const real *x, unsigned char *packed, int n)
{
    int codes[128];
    float ratio[128];
    const float scale = block_ratios(x, 1e-12f, 1.f, ratio, n);
    if (scale != scale)  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < n; i++) codes[i] = 0;
    else
        int4_nearest(ratio, codes, n);
    if (n & 1) codes[n] = 0;
    for (int i = 0; i < (n + 1) / 2; i++) packed[i] = codes[2 * i] << 4 | codes[2 * i + 1];
    return scale;
}

/* k / 16, k from 1: a ratio times 16 is exact, and so is half a step less. */
static inline void uint4_entries(const int *codes, float *entry, int n)
{
    for (int i = 0; i < n; i++) entry[i] = (codes[i] + 1) / 16.f;
}
static inline void uint4_nearest(const float *ratio, int *codes, int n)
{
    for (int i = 0; i < n; i++) {
        const float at = ratio[i] * 16 - 0.5f;
        codes[i] = at < 0 ? 0 : (int)at;
    }
}

/* int4, numbers from 0 on. At most 128 numbers, which share `scale`. */
static inline void decode_uint4(const unsigned char *packed, float scale, real *x, int n)
{
    int codes[128];
    float entry[128];
    for (int i = 0; i < (n + 1) / 2; i++) {
        codes[2 * i] = packed[i] >> 4;
        codes[2 * i + 1] = packed[i] & 15;
    }
    for (int i = n + (n & 1); i & 7; i++) codes[i] = 0;
    uint4_entries(codes, entry, n);
    for (int i = 0; i < n; i++) x[i] = entry[i] * scale;
}
static inline float encode_uint4(const real *x, unsigned char *packed, int n)
{
    int codes[128];
    float ratio[128];
    const float scale = block_ratios(x, 1e-12f, 1.f, ratio, n);
    if (scale != scale)  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < n; i++) codes[i] = 0;
    else
        uint4_nearest(ratio, codes, n);
    if (n & 1) codes[n] = 0;
    for (int i = 0; i < (n + 1) / 2; i++) packed[i] = codes[2 * i] << 4 | codes[2 * i + 1];
    return scale;
}

/* float8_e4m3fn: 4 bits of exponent, NaN but no infinity; below 2^-6 a multiple of 2^-9. */
static inline void fp8_entries(const int *codes, float *entry, int n)
{
    for (int i = 0; i < n; i++) {
        const unsigned code = codes[i] & 0x7f;
        const float value = code < 8 ? code * 0x1p-9f : number((code << 20) + 0x3c000000);
        const unsigned sign = (codes[i] & 0x80u) << 24;
        entry[i] = number((code == 0x7f ? 0x7fc00000 : bits(value)) | sign);
    }
}
static inline void fp8_nearest(const float *ratio, int *codes, int n)
{
    for (int i = 0; i < n; i++) {
        const unsigned w = bits(ratio[i]), size = w & 0x7fffffff;
        const unsigned normal = (size - 0x3c000000 + 0x7ffff + (size >> 20 & 1)) >> 20;
        const unsigned small = bits(number(size) + 0x1p14f) - 0x46800000;
        codes[i] = (w >> 24 & 0x80) | (size < 0x3c800000 ? small : normal);
    }
}

/* fp8. At most 256 numbers, which share `scale`. */
static inline void decode_fp8(const unsigned char *packed, float scale, real *x, int n)
{
    int codes[256];
    float entry[256];
    for (int i = 0; i < n; i++) codes[i] = packed[i];
    for (int i = n; i & 7; i++) codes[i] = 0;
    fp8_entries(codes, entry, n);
    for (int i = 0; i < n; i++) x[i] = entry[i] * scale;
}
static inline float encode_fp8(const real *x, unsigned char *packed, int n)
{
    int codes[256];
    float ratio[256];
    const float scale = block_ratios(x, 1e-12f, 448.f, ratio, n);
    if (scale != scale)  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < n; i++) codes[i] = 0;
    else
        fp8_nearest(ratio, codes, n);
    for (int i = 0; i < n; i++) packed[i] = codes[i];
    return scale;
}

BLOCKS(int8, 256, 1)
BLOCKS(uint8, 256, 1)
BLOCKS(int4, 128, 2)
BLOCKS(uint4, 128, 2)
BLOCKS(fp8, 256, 1)
