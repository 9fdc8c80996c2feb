/* Values that kernels find as float32, loaded from how they are kept before a task, and saved behind
 * it: the frame of halves.c and codecs.c. A function works on the elements [lo, lo + n) of one
 * tensor, whose elements begin at `kept`; what lies `beside` them is a tensor, too, or a number.
 */
typedef long long i64;
typedef unsigned short u16;

#define ELEMENTS _Pragma("omp simd") for (i64 i = 0; i < n; i++)
#define LOAD(name) \
    void load_##name(float *restrict x, const void *kept, const void *beside, i64 lo, i64 n)
#define SAVE(name) \
    void save_##name(const float *restrict x, void *kept, void *beside, i64 lo, i64 n)

/* Codes of blocks: [lo, lo + n) begins with a block; the last of a tensor is as with zeros behind
 * it. All scales come first: what a block's largest number is compared for is not waited for. */
#define BLOCKS(name, block, per_byte) \
    LOAD(name) \
    { \
        const unsigned char *packed = (const unsigned char *)kept + lo / per_byte; \
        const float *scale = (const float *)beside + lo / block; \
        i64 i = 0; \
        for (; i + block <= n; i += block) \
            decode_##name(packed + i / per_byte, scale[i / block], x + i); \
        if (i < n) { \
            unsigned char codes[block / per_byte] = {0}; \
            float values[block]; \
            __builtin_memcpy(codes, packed + i / per_byte, (n - i + per_byte - 1) / per_byte); \
            decode_##name(codes, scale[i / block], values); \
            __builtin_memcpy(x + i, values, 4 * (n - i)); \
        } \
    } \
    SAVE(name) \
    { \
        unsigned char *packed = (unsigned char *)kept + lo / per_byte; \
        float *scale = (float *)beside + lo / block; \
        const i64 whole = n / block * block; \
        for (i64 i = 0; i < whole; i += block) scale[i / block] = scale_##name(x + i); \
        for (i64 i = 0; i < whole; i += block) \
            encode_##name(x + i, scale[i / block], packed + i / per_byte); \
        if (whole < n) { \
            unsigned char codes[block / per_byte]; \
            float values[block] = {0}; \
            __builtin_memcpy(values, x + whole, 4 * (n - whole)); \
            scale[whole / block] = scale_##name(values); \
            encode_##name(values, scale[whole / block], codes); \
            if (n % per_byte) codes[(n - whole) / per_byte] &= 0xf0; \
            __builtin_memcpy(packed + whole / per_byte, codes, \
                             (n - whole + per_byte - 1) / per_byte); \
        } \
    }
