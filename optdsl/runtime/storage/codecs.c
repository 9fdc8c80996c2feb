/* Made by optdsl/codegen/codecs.py; goes behind lanes.c. */
/* The dynamic map. Beside 0 q counts entries, `bins` of them in a decade; decades are counted by
 * `at`: 0 is what is nearest to 0, 8 what is nearest to 1.
 *
 * From the code, with v = q + 1/2, the entry is c = 18 v - 16 bins, an integer, by a divisor whose
 * inverse is `upper` + `lower`: c * upper is exact, so that the sum is rounded once. To the code,
 * the integer below (size * step + shift) / 9: `cuts` are the boundaries between decades, and a
 * size counts as `tops` of its own at most. Where 0 and 1 share a place, both lie on one line.
 * Of a negative number all but 1147.5f is turned about, so that ties go to the larger number.
 */
static const float int8_bins[16] = TWICE(
    -0x1p+5f, -0x1p+6f, -0x1p+7f, -0x1p+8f,
    -0x1p+9f, -0x1p+10f, -0x1.2p+3f, -0x1p+4f);
static const float int8_upper[16] = TWICE(
    0x1.0c6p-22f, 0x1.4f8p-20f, 0x1.a36p-18f, 0x1.062p-15f,
    0x1.47ap-13f, 0x1.99ap-11f, 0x1.c72p-12f, 0x1.ad8p-25f);
static const float int8_lower[16] = TWICE(
    0x1.ef416cp-35f, 0x1.6b11c6p-33f, 0x1.c5d638p-31f, 0x1.374bc6p-29f,
    0x1.c28f5cp-26f, -0x1.99999ap-25f, -0x1.c71c72p-27f, -0x1.aca86ap-42f);
static const float int8_cuts[16] = TWICE(
    0x1.27476ep-22f, 0x1.fe0702p-20f, 0x1.e68a0ep-17f, 0x1.00e6bp-13f,
    0x1.23a29ep-10f, 0x1.5a1caep-7f, 0x1.a51ebap-4f, 0x1.fe3334p-1f);
static const float int8_tops[16] = TWICE(
    0x1p-1f, 0x1.27476cp-21f, 0x1.040bfep-17f, 0x1.743e96p-14f,
    0x1.eecbfcp-11f, 0x1.3e76c8p-7f, 0x1.93d70ap-4f, 0x1.fc6666p-1f);
static const float int8_steps[16] = TWICE(
    0x1.1fp+11f, 0x1.312dp+23f, 0x1.e848p+20f, 0x1.86ap+18f,
    0x1.388p+16f, 0x1.f4p+13f, 0x1.9p+11f, 0x1.4p+9f);
static const float int8_shifts[16] = TWICE(
    -0x1p-1f, 0x1.cp+1f, 0x1.7p+3f, 0x1.b8p+4f,
    0x1.dcp+5f, 0x1.eep+6f, 0x1.f7p+7f, 0x1.fb8p+8f);
static inline floats int8_entry(floats code)  // and 2^23
{
    const floats count = code - 0x1.0000fep+23f;
    const floats v = size(count) + 0.5f;
    const ints at = (ints)v >> 23;
    const floats c = fma_of(v, ALL(18), pick(int8_bins, at));
    const floats entry = fma_of(c, pick(int8_lower, at), c * pick(int8_upper, at));
    return (floats)((ints)entry | ((ints)count & (int)0x80000000));
}
/* By a straight line for the logarithm, which is one too low at most. */
static inline ints int8_decade(floats size)
{
    const floats bits = __builtin_convertvector((ints)size, floats);
    const ints at = (ints)fma_of(bits, ALL(0x1.3851ecp-25f), ALL(0x1.8p23f - 32));
    return next_from(at, size, pick(int8_cuts, at));
}
static inline ints int8_code(floats ratio)
{
    const floats full = max_of(size(ratio), ALL(0x1p-23f));
    const ints at = int8_decade(full);
    const floats top = pick(int8_tops, at);
    const floats step = pick(int8_steps, at), shift = pick(int8_shifts, at);
    return ninth(least_of(ratio, top), step, turned(shift, ratio) + 1147.5f);
}
static inline void int8_values(const unsigned char *codes, float scale, float *x)
{
    for (int i = 0; i < 256; i += LANES)
        AT(floats, x + i) = int8_entry(raised(codes + i)) * scale;
}
static inline void int8_nearest(const float *ratio, int *codes)
{
    for (int i = 0; i < 256; i += LANES)
        AT(ints, codes + i) = int8_code(AT(floats, ratio + i));
}

/* int8: blocks of 256 numbers, which share `scale`. */
static inline void decode_int8(const unsigned char *packed, float scale, float *x)
{
    int8_values(packed, scale, x);
}
static inline float scale_int8(const float *x)
{
    return block_scale(x, 1e-12f, 1.f, 256);
}
static inline void encode_int8(const float *x, float scale, unsigned char *packed)
{
    float ratio[256] IN_LINES;
    int codes[256] IN_LINES;
    if (scale == scale) {
        divided(x, scale, ratio, 256);
        int8_nearest(ratio, codes);
    } else  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < 256; i++) codes[i] = 0;
    pack(codes, packed, 256);
}

/* The dynamic map. Beside 0 q counts entries, `bins` of them in a decade; decades are counted by
 * `at`: 0 is what is nearest to 0, 8 what is nearest to 1.
 *
 * From the code, with v = q + 1/2, the entry is c = 18 v - 16 bins, an integer, by a divisor whose
 * inverse is `upper` + `lower`: c * upper is exact, so that the sum is rounded once. To the code,
 * the integer below (size * step + shift) / 9: `cuts` are the boundaries between decades, and a
 * size counts as `tops` of its own at most. Where 0 and 1 share a place, both lie on one line.
 */
static const float uint8_bins[16] = TWICE(
    -0x1p+5f, -0x1p+6f, -0x1p+7f, -0x1p+8f,
    -0x1p+9f, -0x1p+10f, -0x1p+11f, -0x1.bp+4f);
static const float uint8_upper[16] = TWICE(
    0x1.ad8p-26f, 0x1.0c6p-23f, 0x1.4f8p-21f, 0x1.a36p-19f,
    0x1.062p-16f, 0x1.47ap-14f, 0x1.99ap-12f, 0x1.c8ep-13f);
static const float uint8_lower[16] = TWICE(
    -0x1.aca86ap-43f, 0x1.ef416cp-36f, 0x1.6b11c6p-34f, 0x1.c5d638p-32f,
    0x1.374bc6p-30f, 0x1.c28f5cp-27f, -0x1.99999ap-26f, 0x1.55c78ep-27f);
static const float uint8_cuts[16] = TWICE(
    0x1.5cf752p-23f, 0x1.853b3ep-20f, 0x1.9b0ab4p-17f, 0x1.d29dc8p-14f,
    0x1.14e3bep-10f, 0x1.50e562p-7f, 0x1.9f5c2ap-4f, 0x1.ff199ap-1f);
static const float uint8_tops[16] = TWICE(
    0x1p-1f, 0x1.a0133p-21f, 0x1.29cbacp-17f, 0x1.8bd662p-14f,
    0x1.fd8adap-11f, 0x1.43126ep-7f, 0x1.96b852p-4f, 0x1.fe3334p-1f);
static const float uint8_steps[16] = TWICE(
    0x1.1e6p+12f, 0x1.312dp+24f, 0x1.e848p+21f, 0x1.86ap+19f,
    0x1.388p+17f, 0x1.f4p+14f, 0x1.9p+12f, 0x1.4p+10f);
static const float uint8_shifts[16] = TWICE(
    0x1p+2f, 0x1.cp+2f, 0x1.7p+4f, 0x1.b8p+5f,
    0x1.dcp+6f, 0x1.eep+7f, 0x1.f7p+8f, 0x1.fb8p+9f);
static inline floats uint8_entry(floats code)  // and 2^23
{
    const floats v = code - 0x1p23f + 1.5f;
    const ints at = (ints)v >> 23;
    const floats c = fma_of(v, ALL(18), pick(uint8_bins, at));
    const floats entry = fma_of(c, pick(uint8_lower, at), c * pick(uint8_upper, at));
    return entry;
}
/* By a straight line for the logarithm, which is one too low at most. */
static inline ints uint8_decade(floats size)
{
    const floats bits = __builtin_convertvector((ints)size, floats);
    const ints at = (ints)fma_of(bits, ALL(0x1.3851ecp-25f), ALL(0x1.8p23f - 32));
    return next_from(at, size, pick(uint8_cuts, at));
}
static inline ints uint8_code(floats ratio)
{
    const floats full = max_of(ratio, ALL(0x1p-23f));  // what is negative counts as 0
    const ints at = uint8_decade(full);
    const floats top = pick(uint8_tops, at);
    const floats step = pick(uint8_steps, at), shift = pick(uint8_shifts, at);
    return ninth(min_of(full, top), step, shift);
}
static inline void uint8_values(const unsigned char *codes, float scale, float *x)
{
    for (int i = 0; i < 256; i += LANES)
        AT(floats, x + i) = uint8_entry(raised(codes + i)) * scale;
}
static inline void uint8_nearest(const float *ratio, int *codes)
{
    for (int i = 0; i < 256; i += LANES)
        AT(ints, codes + i) = uint8_code(AT(floats, ratio + i));
}

/* int8, numbers from 0 on: blocks of 256 numbers, which share `scale`. */
static inline void decode_uint8(const unsigned char *packed, float scale, float *x)
{
    uint8_values(packed, scale, x);
}
static inline float scale_uint8(const float *x)
{
    return block_scale(x, 1e-12f, 1.f, 256);
}
static inline void encode_uint8(const float *x, float scale, unsigned char *packed)
{
    float ratio[256] IN_LINES;
    int codes[256] IN_LINES;
    if (scale == scale) {
        divided(x, scale, ratio, 256);
        uint8_nearest(ratio, codes);
    } else  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < 256; i++) codes[i] = 0;
    pack(codes, packed, 256);
}

/* The dynamic map. Beside 0 q counts entries, `bins` of them in a decade; decades are counted by
 * `at`: 0 is what is nearest to 0, 4 what is nearest to 1.
 *
 * From the code, with v = q + 1/2, the entry is c = 18 v - 16 bins, an integer, by a divisor whose
 * inverse is `upper` + `lower`: c * upper is exact, so that the sum is rounded once. To the code,
 * the integer below (size * step + shift) / 9: `cuts` are the boundaries between decades, and a
 * size counts as `tops` of its own at most. Where 0 and 1 share a place, both lie on one line.
 * Of a negative number all but 67.5f is turned about, so that ties go to the larger number.
 */
static const float int4_bins[16] = TWICE(
    -0x1p+5f, -0x1p+6f, -0x1.2p+3f, 0x0p+0f,
    0x0p+0f, 0x0p+0f, -0x1.2p+3f, -0x1p+4f);
static const float int4_upper[16] = TWICE(
    0x1.47ap-9f, 0x1.99ap-7f, 0x1.c72p-8f, 0x0p+0f,
    0x0p+0f, 0x0p+0f, 0x1.c72p-8f, 0x1.062p-11f);
static const float int4_lower[16] = TWICE(
    0x1.c28f5cp-22f, -0x1.99999ap-21f, -0x1.c71c72p-23f, 0x0p+0f,
    0x0p+0f, 0x0p+0f, -0x1.c71c72p-23f, 0x1.374bc6p-25f);
static const float int4_cuts[16] = TWICE(
    0x1.6872b2p-9f, 0x1.374bc8p-6f, 0x1.28f5c4p-3f, 0x1.e33334p-1f,
    0x0p+0f, 0x0p+0f, 0x0p+0f, 0x0p+0f);
static const float int4_tops[16] = TWICE(
    0x1p-1f, 0x1.6872bp-8f, 0x1.3d70a4p-4f, 0x1.c66666p-1f,
    0x1p-1f, 0x0p+0f, 0x0p+0f, 0x0p+0f);
static const float int4_steps[16] = TWICE(
    0x1.1p+7f, 0x1.f4p+9f, 0x1.9p+7f, 0x1.4p+5f,
    0x1.1p+7f, 0x0p+0f, 0x0p+0f, 0x0p+0f);
static const float int4_shifts[16] = TWICE(
    -0x1p-1f, 0x1.cp+1f, 0x1.7p+3f, 0x1.b8p+4f,
    -0x1p-1f, -0x1.2p+2f, -0x1.2p+2f, -0x1.2p+2f);
static inline floats int4_entry(floats code)  // and 2^23
{
    const floats count = code - 0x1.00000ep+23f;
    const floats v = size(count) + 0.5f;
    const ints at = (ints)v >> 23;
    const floats c = fma_of(v, ALL(18), pick(int4_bins, at));
    const floats entry = fma_of(c, pick(int4_lower, at), c * pick(int4_upper, at));
    return (floats)((ints)entry | ((ints)count & (int)0x80000000));
}
/* By a straight line for the logarithm, which is one too low at most. */
static inline ints int4_decade(floats size)
{
    const floats bits = __builtin_convertvector((ints)size, floats);
    const ints at = (ints)fma_of(bits, ALL(0x1.3851ecp-25f), ALL(0x1.8p23f - 36));
    return next_from(at, size, pick(int4_cuts, at));
}
static inline ints int4_code(floats ratio)
{
    const floats full = max_of(size(ratio), ALL(0x1p-10f));
    const ints at = int4_decade(full);
    const floats top = pick(int4_tops, at);
    const floats step = pick(int4_steps, at), shift = pick(int4_shifts, at);
    return ninth(least_of(ratio, top), step, turned(shift, ratio) + 67.5f);
}
static inline void int4_values(const unsigned char *codes, float scale, float *x)
{
    for (int i = 0; i < 128; i += LANES)
        AT(floats, x + i) = int4_entry(raised(codes + i)) * scale;
}
static inline void int4_nearest(const float *ratio, int *codes)
{
    for (int i = 0; i < 128; i += LANES)
        AT(ints, codes + i) = int4_code(AT(floats, ratio + i));
}

/* int4: blocks of 128 numbers, which share `scale`. */
static inline void decode_int4(const unsigned char *packed, float scale, float *x)
{
    unsigned char codes[128];
    for (int i = 0; i < 64; i++) {
        codes[2 * i] = packed[i] >> 4;
        codes[2 * i + 1] = packed[i] & 15;
    }
    int4_values(codes, scale, x);
}
static inline float scale_int4(const float *x)
{
    return block_scale(x, 1e-12f, 1.f, 128);
}
static inline void encode_int4(const float *x, float scale, unsigned char *packed)
{
    float ratio[128] IN_LINES;
    int codes[128] IN_LINES;
    if (scale == scale) {
        divided(x, scale, ratio, 128);
        int4_nearest(ratio, codes);
    } else  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < 128; i++) codes[i] = 0;
    for (int i = 0; i < 64; i++)
        packed[i] = (codes[2 * i] & 15) << 4 | (codes[2 * i + 1] & 15);
}

/* k / 16, k from 1: a ratio times 16 is exact, and so is half a step less. */
static inline void uint4_values(const unsigned char *codes, float scale, float *x)
{
    for (int i = 0; i < 128; i++) x[i] = (codes[i] + 1) / 16.f * scale;
}
static inline void uint4_nearest(const float *ratio, int *codes)
{
    for (int i = 0; i < 128; i++) {
        const float at = ratio[i] * 16 - 0.5f;
        codes[i] = at < 0 ? 0 : (int)at;
    }
}

/* int4, numbers from 0 on: blocks of 128 numbers, which share `scale`. */
static inline void decode_uint4(const unsigned char *packed, float scale, float *x)
{
    unsigned char codes[128];
    for (int i = 0; i < 64; i++) {
        codes[2 * i] = packed[i] >> 4;
        codes[2 * i + 1] = packed[i] & 15;
    }
    uint4_values(codes, scale, x);
}
static inline float scale_uint4(const float *x)
{
    return block_scale(x, 1e-12f, 1.f, 128);
}
static inline void encode_uint4(const float *x, float scale, unsigned char *packed)
{
    float ratio[128] IN_LINES;
    int codes[128] IN_LINES;
    if (scale == scale) {
        divided(x, scale, ratio, 128);
        uint4_nearest(ratio, codes);
    } else  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < 128; i++) codes[i] = 0;
    for (int i = 0; i < 64; i++)
        packed[i] = (codes[2 * i] & 15) << 4 | (codes[2 * i + 1] & 15);
}

/* float8_e4m3fn: 4 bits of exponent, NaN but no infinity; below 2^-6 a multiple of 2^-9. */
static inline void fp8_values(const unsigned char *codes, float scale, float *x)
{
    for (int i = 0; i < 256; i++) {
        const unsigned code = codes[i] & 0x7f;
        const float value = code < 8 ? code * 0x1p-9f : number((code << 20) + 0x3c000000);
        const unsigned sign = (codes[i] & 0x80u) << 24;
        x[i] = number((code == 0x7f ? 0x7fc00000 : bits(value)) | sign) * scale;
    }
}
static inline void fp8_nearest(const float *ratio, int *codes)
{
    for (int i = 0; i < 256; i++) {
        const unsigned w = bits(ratio[i]), size = w & 0x7fffffff;
        const unsigned normal = (size - 0x3c000000 + 0x7ffff + (size >> 20 & 1)) >> 20;
        const unsigned small = bits(number(size) + 0x1p14f) - 0x46800000;
        codes[i] = (w >> 24 & 0x80) | (size < 0x3c800000 ? small : normal);
    }
}

/* fp8: blocks of 256 numbers, which share `scale`. */
static inline void decode_fp8(const unsigned char *packed, float scale, float *x)
{
    fp8_values(packed, scale, x);
}
static inline float scale_fp8(const float *x)
{
    return block_scale(x, 1e-12f, 448.f, 256);
}
static inline void encode_fp8(const float *x, float scale, unsigned char *packed)
{
    float ratio[256] IN_LINES;
    int codes[256] IN_LINES;
    if (scale == scale) {
        divided(x, scale, ratio, 256);
        fp8_nearest(ratio, codes);
    } else  // codes of 0 times NaN: nothing of the block is lost sight of
        for (int i = 0; i < 256; i++) codes[i] = 0;
    pack(codes, packed, 256);
}

BLOCKS(int8, 256, 1)
BLOCKS(uint8, 256, 1)
BLOCKS(int4, 128, 2)
BLOCKS(uint4, 128, 2)
BLOCKS(fp8, 256, 1)
