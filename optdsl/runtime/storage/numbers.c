/* Numbers and their bits, as in generated kernels (templates/cpu/numbers.c.j2). */
static inline unsigned bits(float x) { unsigned w; __builtin_memcpy(&w, &x, 4); return w; }
static inline float number(unsigned w) { float x; __builtin_memcpy(&x, &w, 4); return x; }
