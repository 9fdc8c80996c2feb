/* The step of a plan on the CPU: all stages up to the next library pass in one parallel region.
 *
 * A stage is the tasks of its passes, then both levels of its finish (see runtime/program.py for the
 * tables). Tasks are dealt in contiguous ranges that the caller has made about equal in work;
 * every number is computed by one thread in a fixed order, so that results do not depend on
 * the number of threads. Built once per machine, with -fopenmp where the compiler has it.
 */
typedef long long i64;
typedef void kernel_function(const i64 *task, void *const *pointers, const i64 *shape,
                             const double *scalars, double *partials, const double *results);

/* A buffer whose elements the kernel finds as float: `column` is that of its address, `beside` that
 * of what lies beside it. What it does not read is not loaded, what it does not write not saved. */
struct packed {
    i64 column, beside;
    void (*load)(float *values, const void *kept, const void *beside, i64 lo, i64 count);
    void (*save)(const float *values, void *kept, void *beside, i64 lo, i64 count);
};

/* One kernel over one class. `columns` and `width` are the row lengths of pointers and scalars; with
 * `rows` tasks count rows. With `chunk` the kernel may be called for so many elements at a time. */
struct pass {
    kernel_function *kernel;
    i64 count;
    const i64 *tasks;
    void *const *pointers;
    i64 columns;
    const i64 *shapes;
    const double *scalars;
    i64 width;
    const struct packed *packed;
    i64 packed_count;
    i64 rows;
    i64 chunk;
};

/* `ends` has for each of `parts` parts the number of its last task plus one. */
struct stage {
    const struct pass *passes;
    i64 count;
    const i64 *ends;
    i64 parts;
    const i64 *finish;
    i64 finish_count;
    const i64 *finish_shared;
    i64 finish_shared_count;
};

/* The stages of one thread alone. */
struct own {
    const struct stage *stages;
    i64 count;
};

/* Stages that all threads share, then those that each has of its own. */
struct phase {
    const struct stage *stages;
    i64 count;
    const struct own *own;
};

#ifdef _OPENMP
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

enum { TASK = 4, SHAPE = 8, RECORD = 6 };

/* A task whose kernel works on values in `scratch` instead of what is kept. In chunks, so that while
 * codes are worked out of one, memory brings what the kernel reads of the next. */
static void work_packed(const struct pass *pass, const i64 *task, void *const *kept, const i64 *shape,
                        double *partials, const double *results, float *scratch)
{
    void *pointers[pass->columns];
    for (i64 i = 0; i < pass->columns; i++)
        pointers[i] = kept[i];
    const i64 unit = pass->rows ? shape[2] : 1, first = task[1] * unit, last = task[2] * unit;
    const i64 chunk = pass->chunk ? pass->chunk : last - first;
    const struct packed *const end = pass->packed + pass->packed_count;
    for (i64 lo = first; lo < last; lo += chunk) {
        const i64 hi = lo + chunk < last ? lo + chunk : last, count = hi - lo;
        const i64 part[TASK] = {task[0], lo / unit, hi / unit, task[3]};
        float *values = scratch;
        for (const struct packed *each = pass->packed; each < end; each++, values += count) {
            if (each->load)
                each->load(values, kept[each->column], kept[each->beside], lo, count);
            pointers[each->column] = values - lo;
        }
        pass->kernel(part, pointers, shape, pass->scalars + pass->width * shape[4], partials, results);
        values = scratch;
        for (const struct packed *each = pass->packed; each < end; each++, values += count)
            if (each->save)
                each->save(values, kept[each->column], kept[each->beside], lo, count);
    }
}

/* Tasks [lo, hi) of a stage, counted through its passes. */
static void work(const struct stage *stage, i64 lo, i64 hi, double *partials, const double *results,
                 float *scratch)
{
    const struct pass *pass = stage->passes;
    for (i64 first = 0; first < hi; first += pass->count, pass++) {
        const i64 start = lo > first ? lo - first : 0;
        const i64 end = hi - first < pass->count ? hi - first : pass->count;
        for (i64 i = start; i < end; i++) {
            const i64 *task = pass->tasks + TASK * i;
            const i64 tensor = task[0];
            const i64 *shape = pass->shapes + SHAPE * tensor;
            void *const *pointers = pass->pointers + pass->columns * tensor;
            if (pass->packed_count)
                work_packed(pass, task, pointers, shape, partials, results, scratch);
            else
                pass->kernel(task, pointers, shape, pass->scalars + pass->width * shape[4],
                             partials, results);
        }
    }
}

static inline double join(i64 operation, double x, double y)
{
    if (operation == 0)
        return x + y;
    if (x != x || y != y)
        return __builtin_nan("");
    return (operation == 1) == (x > y) ? x : y;
}

/* results[target + j] = the operation over i < count of source[start + i * stride + j], j < width. */
static void finish(const i64 *record, const double *source, double *results)
{
    const i64 operation = record[0], stride = record[2], count = record[3], width = record[5];
    double *target = results + record[4];
    const double first = operation == 0 ? 0.0 : operation == 1 ? -__builtin_inf() : __builtin_inf();
    source += record[1];
    for (i64 j = 0; j < width; j++)
        target[j] = first;
    for (i64 i = 0; i < count; i++)
        for (i64 j = 0; j < width; j++)
            target[j] = join(operation, target[j], source[i * stride + j]);
}

static void finish_part(const i64 *records, i64 count, i64 part, i64 parts, const double *source,
                        double *results)
{
    for (i64 i = count * part / parts; i < count * (part + 1) / parts; i++)
        finish(records + RECORD * i, source, results);
}

/* The share of `thread` of `threads`. Barriers stand only where something follows that needs them. */
static void run(const struct stage *stages, i64 count, double *partials, double *results,
                float *scratch, i64 thread, i64 threads)
{
    for (const struct stage *stage = stages; stage < stages + count; stage++) {
        for (i64 part = thread; part < stage->parts; part += threads)
            work(stage, part ? stage->ends[part - 1] : 0, stage->ends[part], partials, results,
                 scratch);
        if (stage->finish_count) {
            #pragma omp barrier
            finish_part(stage->finish, stage->finish_count, thread, threads, partials, results);
        }
        if (stage->finish_shared_count) {
            #pragma omp barrier
            finish_part(stage->finish_shared, stage->finish_shared_count, thread, threads, results,
                        results);
        }
        if (stage + 1 < stages + count) {
            #pragma omp barrier
        }
    }
}

/* A thread's own stages: whole tensors that no other thread has. */
static void run_alone(const struct own *own, double *partials, double *results, float *scratch)
{
    for (const struct stage *stage = own->stages; stage < own->stages + own->count; stage++) {
        work(stage, 0, stage->ends[stage->parts - 1], partials, results, scratch);
        finish_part(stage->finish, stage->finish_count, 0, 1, partials, results);
    }
}

/* The share of `thread` of `threads` of all phases, which were made for `parts` threads: there may
 * be fewer. */
static void run_phases(const struct phase *phases, i64 count, double *partials, double *results,
                       float *scratch, i64 parts, i64 thread, i64 threads)
{
    for (const struct phase *phase = phases; phase < phases + count; phase++) {
        run(phase->stages, phase->count, partials, results, scratch, thread, threads);
        for (i64 part = thread; part < parts; part += threads)
            run_alone(phase->own + part, partials, results, scratch);
        if (phase + 1 < phases + count) {
            #pragma omp barrier
        }
    }
}

/* Runs `count` phases on `threads` threads; 1: in the caller's, without a parallel region. Each has
 * `room` numbers of `scratch`. */
void optdsl_run(const struct phase *phases, i64 count, double *partials, double *results,
                float *scratch, i64 room, i64 threads)
{
    if (threads <= 1) {
        run_phases(phases, count, partials, results, scratch, threads, 0, 1);
        return;
    }
    #pragma omp parallel num_threads(threads)
    run_phases(phases, count, partials, results, scratch + room * omp_get_thread_num(), threads,
               omp_get_thread_num(), omp_get_num_threads());
}
