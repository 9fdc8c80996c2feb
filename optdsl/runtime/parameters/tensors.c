/* What torch's tensors say of themselves, asked without Python: some 10 ns a question instead of 80.
 *
 * A Python tensor holds, `offset` bytes from its start, the pointer to its c10::TensorImpl; the place
 * of that pointer is all that an at::Tensor is. tensors.py finds the offset and the functions, and
 * tries them out before their first use. The caller holds Python's lock and keeps all objects alive.
 *
 * `local` is 0, or, where all parameters are DTensors, how many bytes from the start of such a one the
 * pointer stands to the Python tensor that holds what lies in this process.
 */
typedef long long i64;
typedef struct object object;
typedef struct impl impl;
typedef impl *const tensor;

extern void PyErr_Clear(void);
extern void Py_DecRef(object *owned);
extern object *PyObject_GetAttr(object *self, object *name);
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
    int (*numel)(tensor *self, i64 *answer);
    void (*bump)(tensor *self);
    const impl *undefined;
    i64 offset;
};

static inline tensor *inside(const struct torch *torch, object *python)
{
    return (tensor *)((char *)python + torch->offset);
}

static inline tensor *here(const struct torch *torch, object *python, i64 local)
{
    return inside(torch, local ? *(object **)((char *)python + local) : python);
}

/* The type of a Python object. */
static inline const void *kind(const object *python)
{
    return ((const void *const *)python)[1];
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
                 void *const *places, i64 local)
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
                torch->data(here(torch, params[p], local), &place) || place != places[p])
                return 1;
        }
    }
    return 0;
}

/* Writes where `g` lies. Returns 1 where it does not lie as its parameter `p`, at `place`, does:
 * strided, contiguous, of its dtype, in memory unless it is empty. */
static int read(const struct torch *torch, tensor *p, tensor *g, const void *place, void **answer)
{
    int layout, wanted, dtype;
    _Bool contiguous;
    return torch->layout(g, &layout) || layout || torch->dtype(p, &wanted) ||
           torch->dtype(g, &dtype) || dtype != wanted || torch->contiguous(g, &contiguous) ||
           !contiguous || torch->data(g, answer) || !*answer != !place;
}

/* The same of the gradient of a DTensor, which is one, too, and as long here. */
static int read_local(const struct torch *torch, object *python, object *name, const void *place,
                      void **answer, i64 local)
{
    object *const found = PyObject_GetAttr(python, name);
    if (!found) {
        PyErr_Clear();
        return 1;
    }
    int refused = kind(found) != kind(python);
    if (!refused) {
        tensor *const p = here(torch, python, local), *const g = here(torch, found, local);
        i64 wanted, count;
        refused = read(torch, p, g, place, answer) || torch->numel(p, &wanted) ||
                  torch->numel(g, &count) || count != wanted;
    }
    Py_DecRef(found);
    return refused;
}

/* Writes where the gradients of `params` lie. Returns 1 where one is missing, or does not lie as its
 * parameter does, 2 where one lies elsewhere than was written there. `name` is that of the
 * attribute. */
i64 optdsl_gradients(const struct torch *torch, i64 count, object *const *params, object *name,
                     void *const *places, void **gradients, i64 local)
{
    int moved = 0;
    for (i64 i = 0; i < count; i++) {
        const void *const before = gradients[i];
        if (local) {
            if (read_local(torch, params[i], name, places[i], gradients + i, local))
                return 1;
        } else {
            tensor *const p = inside(torch, params[i]), *const g = torch->grad(*p);
            if (*g == torch->undefined || read(torch, p, g, places[i], gradients + i))
                return 1;
        }
        moved |= gradients[i] != before;
    }
    return moved ? 2 : 0;
}

/* Tells autograd that the values of `tensors` are new. */
i64 optdsl_written(const struct torch *torch, i64 count, object *const *tensors)
{
    for (i64 i = 0; i < count; i++)
        torch->bump(inside(torch, tensors[i]));
    return 0;
}
