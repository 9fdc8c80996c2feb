/* What torch's tensors say of themselves, asked without Python: some 10 ns a question instead of 80.
 *
 * A Python tensor holds, `offset` bytes from its start, the pointer to its c10::TensorImpl; the place
 * of that pointer is all that an at::Tensor is. tensors.py finds the offset and the functions, and
 * tries them out before their first use. The caller holds Python's lock and keeps all objects alive.
 */
typedef long long i64;
typedef struct object object;
typedef struct impl impl;
typedef impl *const tensor;

extern void PyErr_Clear(void);
extern i64 PyList_Size(object *list);
extern object *PyList_GetItem(object *list, i64 index);
extern object *PyDict_GetItem(object *dict, object *key);

/* `grad` is c10::TensorImpl::grad, `bump` torch::autograd::impl::bump_version; the others belong to
 * the C interface that torch keeps stable, and return 0 where they know the answer. */
struct torch {
    tensor *(*grad)(const impl *self);
    int (*data)(tensor *self, void **answer);
    int (*dtype)(tensor *self, int *answer);
    int (*layout)(tensor *self, int *answer);
    int (*contiguous)(tensor *self, _Bool *answer);
    void (*bump)(tensor *self);
    const impl *undefined;
    i64 offset;
};

static inline tensor *inside(const struct torch *torch, object *python)
{
    return (tensor *)((char *)python + torch->offset);
}

/* -1 for what is no list. */
static i64 length(object *list)
{
    const i64 found = list ? PyList_Size(list) : -1;
    if (found < 0)
        PyErr_Clear();
    return found;
}

/* Whether `groups` are other than the `count` that are known, hold other parameters, or one of these
 * lies elsewhere. `ends` has for each group the number of its last parameter plus one. */
i64 optdsl_moved(const struct torch *torch, object *groups, object *key, i64 count,
                 object *const *known, const i64 *ends, object *const *params,
                 void *const *places)
{
    if (length(groups) != count)
        return 1;
    for (i64 i = 0, p = 0; i < count; i++) {
        object *const group = PyList_GetItem(groups, i);
        object *const listed = group == known[i] ? PyDict_GetItem(group, key) : 0;
        if (length(listed) != ends[i] - p)
            return 1;
        for (const i64 first = p; p < ends[i]; p++) {
            void *place;
            if (PyList_GetItem(listed, p - first) != params[p] ||
                torch->data(inside(torch, params[p]), &place) || place != places[p])
                return 1;
        }
    }
    return 0;
}

/* Writes where the gradients of `params` lie. Returns 1 where one is missing, or does not lie as its
 * parameter does: strided, contiguous, of its dtype, in memory unless it is empty. */
i64 optdsl_gradients(const struct torch *torch, i64 count, object *const *params,
                     void *const *places, void **gradients)
{
    for (i64 i = 0; i < count; i++) {
        tensor *const p = inside(torch, params[i]), *const g = torch->grad(*p);
        int layout, wanted, dtype;
        _Bool contiguous;
        if (*g == torch->undefined || torch->layout(g, &layout) || layout ||
            torch->dtype(p, &wanted) || torch->dtype(g, &dtype) || dtype != wanted ||
            torch->contiguous(g, &contiguous) || !contiguous ||
            torch->data(g, gradients + i) || !gradients[i] != !places[i])
            return 1;
    }
    return 0;
}

/* Tells autograd that the values of `tensors` are new. */
i64 optdsl_written(const struct torch *torch, i64 count, object *const *tensors)
{
    for (i64 i = 0; i < count; i++)
        torch->bump(inside(torch, tensors[i]));
    return 0;
}
