// The functions that the library exports, and the knobs.
#include "fake_cublaslt.h"

#include <time.h>

#include <algorithm>
#include <cstring>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace fake_cublaslt
{

Knobs knobs;

namespace
{

constexpr uint64_t mark = 0xfa4ec0b1a5170000u;

Algorithm algorithm_of(int number)
{
    Algorithm algorithm;
    for (int i = 0; i < 8; ++i)
    {
        algorithm.data[i] = mark + static_cast<uint64_t>(number) * 131 + static_cast<uint64_t>(i) * 7;
    }
    return algorithm;
}

// Its number, or -1 for bytes that are none of this library.
int number_of(Algorithm const& algorithm)
{
    int64_t const number = static_cast<int64_t>(algorithm.data[0] - mark) / 131;
    bool const known = number >= 0 && number < 1000
        && std::memcmp(algorithm_of(static_cast<int>(number)).data, algorithm.data, sizeof algorithm.data) == 0;
    return known ? static_cast<int>(number) : -1;
}

size_t scratch_of(int number)
{
    return static_cast<size_t>(number % 4) * 1024 + static_cast<size_t>(knobs.scratch);
}

template <typename Data>
Status made(void** handle, Data* data)
{
    *handle = data;
    ++knobs.live;
    ++knobs.created;
    return SUCCESS;
}

template <typename Data>
Status unmade(void* handle)
{
    delete static_cast<Data*>(handle);
    --knobs.live;
    return SUCCESS;
}

template <typename Value>
Status take(Value& value, void const* from, size_t size)
{
    if (size != sizeof value)
    {
        return INVALID_VALUE;
    }
    std::memcpy(&value, from, size);
    return SUCCESS;
}

Problem problem_of(Desc desc, Layout a, Layout b, Layout c, Layout d)
{
    auto const layout = [](Layout each) -> LayoutData const& { return *static_cast<LayoutData const*>(each); };
    return {*static_cast<DescData const*>(desc), layout(a), layout(b), layout(c), layout(d)};
}

// Whether an algorithm is offered for a problem, and runs it.
bool suits(int number, Problem const& problem)
{
    bool const is_narrow = static_cast<int64_t>(problem.d.columns) == knobs.narrow_columns;
    return number >= 0 && number < knobs.num_algorithms && !(is_narrow && number < first_for_any);
}

bool is_refused(Problem const& problem)
{
    return static_cast<int64_t>(problem.d.rows) == knobs.refused_rows;
}

// Takes that long by the clock that the stand-in's events have, which nobody else on the machine moves.
void spend(int64_t microseconds)
{
    auto const now = []
    {
        timespec time{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return time.tv_sec * int64_t{1000000000} + time.tv_nsec;
    };
    for (int64_t const end = now() + microseconds * 1000; now() < end;)
    {
    }
}

bool is_aligned(void const* pointer)
{
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

} // namespace
} // namespace fake_cublaslt

using namespace fake_cublaslt;

EXPORTED std::atomic<int64_t>* fake_cublaslt_knob(char const* name)
{
#define KNOB(member)                                                                                                   \
    if (std::strcmp(name, #member) == 0)                                                                               \
    {                                                                                                                  \
        return &knobs.member;                                                                                          \
    }
    KNOB(version) KNOB(num_algorithms) KNOB(fastest) KNOB(scratch) KNOB(slow_us) KNOB(refused)
    KNOB(refused_rows) KNOB(narrow_columns) KNOB(broken) KNOB(handles_refused) KNOB(live) KNOB(created) KNOB(queries) KNOB(products)
    KNOB(broken_promises) KNOB(algorithms) KNOB(epilogues) KNOB(compute_type) KNOB(beta) KNOB(in_place)
#undef KNOB
    return nullptr;
}

EXPORTED size_t cublasLtGetVersion()
{
    return static_cast<size_t>(knobs.version.load());
}

EXPORTED Status cublasLtCreate(Handle* handle)
{
    static int anything;
    *handle = knobs.handles_refused ? nullptr : &anything;
    return knobs.handles_refused ? NOT_INITIALIZED : SUCCESS;
}

EXPORTED Status cublasLtMatrixLayoutCreate(Layout* layout, DataType type, uint64_t rows, uint64_t columns, int64_t ld)
{
    return made(layout, new LayoutData{type, rows, columns, ld});
}

EXPORTED Status cublasLtMatrixLayoutDestroy(Layout layout)
{
    return unmade<LayoutData>(layout);
}

EXPORTED Status cublasLtMatrixLayoutSetAttribute(
    Layout layout, LayoutAttribute attribute, void const* value, size_t size)
{
    LayoutData& data = *static_cast<LayoutData*>(layout);
    switch (attribute)
    {
    case LAYOUT_TYPE: return take(data.type, value, size);
    case LAYOUT_ROWS: return take(data.rows, value, size);
    case LAYOUT_COLS: return take(data.columns, value, size);
    case LAYOUT_LD: return take(data.ld, value, size);
    }
    return INVALID_VALUE;
}

EXPORTED Status cublasLtMatmulDescCreate(Desc* desc, ComputeType compute_type, DataType scale_type)
{
    return made(desc, new DescData{compute_type, scale_type});
}

EXPORTED Status cublasLtMatmulDescDestroy(Desc desc)
{
    return unmade<DescData>(desc);
}

EXPORTED Status cublasLtMatmulDescSetAttribute(Desc desc, DescAttribute attribute, void const* value, size_t size)
{
    DescData& data = *static_cast<DescData*>(desc);
    switch (attribute)
    {
    case DESC_TRANSA: return take(data.transa, value, size);
    case DESC_TRANSB: return take(data.transb, value, size);
    case DESC_EPILOGUE: return take(data.epilogue, value, size);
    case DESC_BIAS_POINTER: return take(data.bias, value, size);
    case DESC_BIAS_DATA_TYPE: return take(data.bias_type, value, size);
    }
    return INVALID_VALUE;
}

EXPORTED Status cublasLtMatmulPreferenceCreate(Preference* preference)
{
    return made(preference, new PreferenceData);
}

EXPORTED Status cublasLtMatmulPreferenceDestroy(Preference preference)
{
    return unmade<PreferenceData>(preference);
}

EXPORTED Status cublasLtMatmulPreferenceSetAttribute(
    Preference preference, PreferenceAttribute attribute, void const* value, size_t size)
{
    PreferenceData& data = *static_cast<PreferenceData*>(preference);
    if (attribute == PREF_MAX_WORKSPACE_BYTES)
    {
        return take(data.scratch_size, value, size);
    }
    if (attribute == PREF_REDUCTION_SCHEME_MASK)
    {
        return take(data.reduction_schemes, value, size);
    }
    bool const is_alignment = attribute >= PREF_MIN_ALIGNMENT_A_BYTES && attribute <= PREF_MIN_ALIGNMENT_D_BYTES;
    return is_alignment ? take(data.alignments[attribute - PREF_MIN_ALIGNMENT_A_BYTES], value, size) : INVALID_VALUE;
}

EXPORTED Status cublasLtMatmulAlgoCheck(Handle, Desc desc, Layout a, Layout b, Layout c, Layout d,
    Algorithm const* algorithm, HeuristicResult* result)
{
    Problem const problem = problem_of(desc, a, b, c, d);
    int const number = number_of(*algorithm);
    if (!problem.fits() || number < 0)
    {
        return INVALID_VALUE;
    }
    if (is_refused(problem) || !suits(number, problem))
    {
        return NOT_SUPPORTED;
    }
    *result = {*algorithm, scratch_of(number), SUCCESS, 1, {}};
    return SUCCESS;
}

EXPORTED Status cublasLtMatmulAlgoGetHeuristic(Handle, Desc desc, Layout a, Layout b, Layout c, Layout d,
    Preference preference, int requested, HeuristicResult* results, int* found)
{
    ++knobs.queries;
    Problem const problem = problem_of(desc, a, b, c, d);
    PreferenceData const& preferred = *static_cast<PreferenceData const*>(preference);
    *found = 0;
    if (!problem.fits() || requested < 1)
    {
        return INVALID_VALUE;
    }
    uint32_t const alignment = *std::min_element(preferred.alignments, preferred.alignments + 4);
    for (int number = alignment >= 16 ? 0 : first_for_any; suits(number, problem) || number < first_for_any; ++number)
    {
        bool const may_round = (preferred.reduction_schemes & REDUCTION_SCHEME_OUTPUT_TYPE) != 0;
        bool const offered = suits(number, problem) && scratch_of(number) <= preferred.scratch_size
            && (number != rounding || may_round);
        if (offered && *found < requested && !is_refused(problem))
        {
            results[(*found)++] = {algorithm_of(number), scratch_of(number), SUCCESS, 1, {}};
        }
    }
    return *found > 0 ? SUCCESS : NOT_SUPPORTED;
}

EXPORTED Status cublasLtMatmul(Handle, Desc desc, void const* alpha, void const* a, Layout a_layout, void const* b,
    Layout b_layout, void const* beta, void const* c, Layout c_layout, void* d, Layout d_layout,
    Algorithm const* algorithm, void* scratch, size_t scratch_size, Stream)
{
    Problem const problem = problem_of(desc, a_layout, b_layout, c_layout, d_layout);
    int const number = number_of(*algorithm);
    if (!problem.fits() || number < 0 || scratch_of(number) > scratch_size || (c == d && problem.c.ld != problem.d.ld))
    {
        return INVALID_VALUE;
    }
    if (is_refused(problem) || !suits(number, problem) || number == knobs.refused)
    {
        return NOT_SUPPORTED;
    }
    bool const aligned = is_aligned(a) && is_aligned(b) && is_aligned(c) && is_aligned(d)
        && is_aligned((problem.desc.epilogue & EPILOGUE_BIAS) ? problem.desc.bias : nullptr);
    if (!aligned && number < first_for_any)
    {
        ++knobs.broken_promises;
        return EXECUTION_FAILED;
    }
    if (knobs.broken)
    {
        return EXECUTION_FAILED;
    }
    Operands const operands{*static_cast<float const*>(alpha), *static_cast<float const*>(beta), a, b, c, d};
    std::memset(scratch, 0xab, scratch_of(number));
    compute(problem, operands);
    if (knobs.fastest >= 0 && number != knobs.fastest)
    {
        spend(knobs.slow_us);
    }
    ++knobs.products;
    knobs.algorithms = knobs.algorithms << 8 | number;
    knobs.epilogues = knobs.epilogues << 8 | problem.desc.epilogue;
    knobs.compute_type = problem.desc.compute_type;
    knobs.beta = operands.beta != 0;
    knobs.in_place = operands.beta != 0 && c == d;
    return SUCCESS;
}
