/* Behind numbers.c and lanes.c: how many quotients a / b `divided` rounds otherwise than a division,
 * of all that lie where it could, for every `step`-th b.
 *
 * a and b are mantissas, whole numbers from 2^23 on and below 2^24; powers of two besides change
 * nothing. Before it is rounded, what `divided` gives is off by 2^-22.4 of the last place at most: the
 * product leaves up to 1.5 of it, of which the remainder and the inverse lose 2^-24 each. So it
 * errs only where a / b is as near to a number M / 2^k half way between two floats, M odd: where
 * r = 2^k a - b M is not above 6. For each b and r there are few such M: all are tried up to 16.
 */
typedef long long i64;
typedef unsigned long long u64;
enum { BATCH = 64 };

static i64 wrong_of(const float *a, float b, int n)
{
    float found[BATCH];
    i64 wrong = 0;
    divided(a, b, found, n);
    for (int i = 0; i < n; i++) wrong += found[i] != a[i] / b;
    return wrong;
}

void count_wrong(i64 step, i64 *tried, i64 *wrong)
{
    float waiting[BATCH];
    *tried = *wrong = 0;
    for (u64 b = 1 << 23; b < 1 << 24; b += step) {
        int n = 0;
        const int twos = __builtin_ctzll(b);
        const u64 odd = b >> twos;
        u64 inverse = odd;  // modulo 2^64, by Newton
        for (int i = 0; i < 5; i++) inverse *= 2 - odd * inverse;
        for (int k = 24; k <= 25; k++)
            for (i64 r = -16; r <= 16; r++) {
                const u64 every = 1ull << (k > twos ? k - twos : 0);
                u64 m = -(u64)(r >> twos) * inverse & (every - 1);
                if (r & ((1 << twos) - 1) || !(m & 1)) continue;
                for (m += (1 << 24) / every * every; m < 1 << 25; m += every) {
                    const u64 a = (b * m + r) >> k;
                    if (m < 1 << 24 || a < 1 << 23 || a >= 1 << 24 || (k == 24) != (a >= b)) continue;
                    waiting[n++] = a;
                    *tried += 1;
                    if (n == BATCH) *wrong += wrong_of(waiting, b, n), n = 0;
                }
            }
        *wrong += wrong_of(waiting, b, n);
    }
}
