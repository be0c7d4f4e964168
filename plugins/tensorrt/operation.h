/*
 * One layer of an operation, as neither of TensorRT's plugin interfaces knows it: which tensors go in and come out,
 * what has to be prepared, how much workspace a run takes, the run itself through the kernels' C interface, and what is
 * kept with an engine. The adapters (plugin_v2, plugin_v3) translate between this and TensorRT.
 */
#ifndef TRTLLM_EXT_PLUGINS_OPERATION_H
#define TRTLLM_EXT_PLUGINS_OPERATION_H

#include "plugins/kernels/trtllm_ext_kernels.h"
#include "plugins/tensorrt/fields.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace trtllm_ext::plugins
{

constexpr int32_t MAX_DIMS = 8;
constexpr int32_t MAX_TENSORS = 8; // inputs of a layer, or outputs

/* The shape of a tensor. A dimension that is not known yet is -1. */
struct Shape
{
    int32_t num_dims = 0;
    int64_t dims[MAX_DIMS] = {};
};

/* Which of a layer's sizes a dimension is. */
enum class Extent
{
    HIDDEN,
    FFN,
    ONE,
};

enum class Layout
{
    TOKENS, // the leading dimensions of x, then `columns`
    MATRIX, // (rows, columns)
    VECTOR, // (columns)
};

/* An input or output of a layer. */
struct Port
{
    char const* name;
    trtllm_ext_type type;
    Layout layout = Layout::TOKENS;
    Extent columns = Extent::HIDDEN;
    Extent rows = Extent::HIDDEN; // of a MATRIX
};

/* The sizes of one call, or bounds of those of many; -1 is not known. */
struct Sizes
{
    int64_t num_tokens = -1;
    int64_t hidden_size = -1; // the width, of operations that have one only
    int64_t ffn_hidden_size = -1;
};

class Operation
{
public:
    explicit Operation(Fields fields);
    virtual ~Operation() = default;

    Fields const& fields() const
    {
        return fields_;
    }

    std::vector<Port> const& inputs() const
    {
        return inputs_;
    }

    std::vector<Port> const& outputs() const
    {
        return outputs_;
    }

    /* Inputs are numbered first, then outputs. Only linear tensors of the port's own type are taken. */
    bool supports(int32_t position, trtllm_ext_type type, bool linear) const;

    /* The sizes that these input shapes have in common. Throws Refusal where they do not fit each other. */
    Sizes sizes_of(Shape const* shapes, int32_t num_shapes) const;

    virtual std::unique_ptr<Operation> clone() const = 0;

    /*
     * Gets ready for runs of least.num_tokens to most.num_tokens. In a build what is chosen by timing is chosen here;
     * in an engine (after take_state) it is taken from there. Throws Refusal for what cannot be run.
     */
    virtual void prepare(Sizes const& least, Sizes const& most);

    /* Gets ready in an engine before any shape is known. Throws Refusal. */
    virtual void resume();

    /* Bytes of workspace that any run needs that has been prepared for. */
    virtual uint64_t workspace_size() const noexcept
    {
        return 0;
    }

    /* Enqueues one call. Nothing is allocated, nothing thrown; a status has its sentence in trtllm_ext_last_error(). */
    virtual trtllm_ext_status run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void* workspace,
        trtllm_ext_stream stream) const noexcept = 0;

    /* What an engine keeps beside the fields, and back. Throws Refusal for bytes that are not state of this layer. */
    virtual std::vector<uint8_t> state() const
    {
        return {};
    }

    virtual void take_state(std::vector<uint8_t> const& state);

protected:
    /* Adds an input where there is one; its index, or -1. */
    int32_t add_input(Port const& port, bool is_there = true);
    void add_output(Port const& port);

    /* One of trtllm_ext_type's values that the operation computes in: FLOAT32, FLOAT16 or BFLOAT16. */
    static trtllm_ext_type type_of(Fields const& fields);

    static void const* at(void const* const* tensors, int32_t index) noexcept
    {
        return index < 0 ? nullptr : tensors[index];
    }

private:
    Fields fields_;
    std::vector<Port> inputs_;
    std::vector<Port> outputs_;
};

/* The records of all operations, and a new layer of one. */
std::vector<OperationRecord const*> const& all_records();
std::unique_ptr<Operation> make_operation(Fields fields);

} // namespace trtllm_ext::plugins

#endif
