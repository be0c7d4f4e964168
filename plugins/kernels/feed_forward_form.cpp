#include "feed_forward_form.h"

#include "arguments.h"

#include <algorithm>
#include <cstring>

namespace trtllm_ext::feed_forward
{
namespace
{

constexpr char const* call = "feed_forward";

uint64_t round_up(uint64_t value, uint64_t step)
{
    return (value + step - 1) / step * step;
}

trtllm_ext_status check_flags(Form const& form)
{
    struct
    {
        char const* name;
        int32_t value;
    } const flags[] = {{"gated", form.gated}, {"has_fc_bias", form.has_fc_bias}, {"has_gate_bias", form.has_gate_bias},
        {"has_proj_bias", form.has_proj_bias}, {"has_residual", form.has_residual}, {"tf32", form.tf32}};
    for (auto const& flag : flags)
    {
        TRTLLM_EXT_CHECK(check_choice(call, flag.name, "a flag", flag.value, 0, 1));
    }
    return check_choice(call, "reserved", "it", form.reserved, 0, 0);
}

trtllm_ext_status check_gate(Form const& form)
{
    TRTLLM_EXT_CHECK(check_finite(call, "clamp", form.clamp));
    TRTLLM_EXT_CHECK(check_finite(call, "gate_offset", form.gate_offset));
    if (form.clamp < 0)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: clamp is %g; it must be above 0, or 0 for none", call,
            static_cast<double>(form.clamp));
    }
    if (!form.gated && (form.has_gate_bias || form.gate_offset != 0))
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: %s without a gate; set gated to 1, or it to 0", call,
            form.has_gate_bias ? "has_gate_bias" : "gate_offset");
    }
    return TRTLLM_EXT_SUCCESS;
}

} // namespace

trtllm_ext_status check_form(Form const& form)
{
    TRTLLM_EXT_CHECK(check_float_type(call, form.type));
    TRTLLM_EXT_CHECK(check_choice(
        call, "activation", "trtllm_ext_activation", form.activation, TRTLLM_EXT_IDENTITY, TRTLLM_EXT_TANH));
    TRTLLM_EXT_CHECK(check_flags(form));
    TRTLLM_EXT_CHECK(check_gate(form));
    TRTLLM_EXT_CHECK(check_sizes(call, form.max_num_tokens, "hidden_size", form.hidden_size));
    TRTLLM_EXT_CHECK(check_sizes(call, form.max_num_tokens, "ffn_hidden_size", form.ffn_hidden_size));
    if (form.max_num_tokens == 0)
    {
        return fail(TRTLLM_EXT_INVALID_ARGUMENT, "%s: max_num_tokens is 0; a plan is for at least 1 token", call);
    }
    return TRTLLM_EXT_SUCCESS;
}

int bucket_index(int64_t num_tokens)
{
    int index = 0;
    while ((int64_t{1} << index) < num_tokens)
    {
        ++index;
    }
    return index;
}

int64_t bucket_of(Form const& form, int64_t num_tokens)
{
    if (num_tokens < 0 || num_tokens > form.max_num_tokens)
    {
        return -1;
    }
    return num_tokens == 0 ? 0 : std::min(int64_t{1} << bucket_index(num_tokens), form.max_num_tokens);
}

bool activates_apart(Form const& form)
{
    bool const is_epilogue = form.activation == TRTLLM_EXT_IDENTITY || form.activation == TRTLLM_EXT_RELU
        || form.activation == TRTLLM_EXT_GELU_TANH;
    return form.gated || form.clamp > 0 || !is_epilogue;
}

Product whole_inner_product(Form const& form)
{
    Product product{};
    product.type = form.type;
    product.tf32 = form.tf32 != 0;
    product.activation = form.activation;
    product.gated = form.gated != 0;
    product.clamp = form.clamp;
    product.gate_offset = form.gate_offset;
    product.has_bias = form.has_fc_bias != 0;
    product.in_features = form.hidden_size;
    product.out_features = form.ffn_hidden_size;
    return product;
}

Product inner_product(Form const& form)
{
    Product product = whole_inner_product(form);
    if (activates_apart(form))
    {
        product.activation = TRTLLM_EXT_IDENTITY;
        product.gated = false;
        product.clamp = product.gate_offset = 0;
        product.has_bias = false;
    }
    return product;
}

Product outer_product(Form const& form)
{
    Product product{};
    product.type = form.type;
    product.tf32 = form.tf32 != 0;
    product.activation = TRTLLM_EXT_IDENTITY;
    product.has_bias = form.has_proj_bias != 0;
    product.has_residual = form.has_residual != 0;
    product.in_features = form.ffn_hidden_size;
    product.out_features = form.hidden_size;
    return product;
}

Workspace workspace_of(Form const& form, int64_t num_tokens, bool gate_rows, uint64_t scratch_size)
{
    uint64_t const element = static_cast<uint64_t>(size_of_type(form.type));
    uint64_t const row = round_up(static_cast<uint64_t>(form.ffn_hidden_size) * element, 16);
    uint64_t const rows = round_up(row * static_cast<uint64_t>(num_tokens), workspace_alignment);
    Workspace workspace{};
    workspace.inner_stride = static_cast<int64_t>(row / element);
    workspace.gate = rows;
    workspace.scratch = gate_rows ? 2 * rows : rows;
    workspace.scratch_size = round_up(scratch_size, workspace_alignment);
    workspace.size = workspace.scratch + workspace.scratch_size;
    return workspace;
}

uint64_t scratch_limit(Form const& form, int64_t num_tokens)
{
    constexpr uint64_t most = uint64_t{64} << 20;
    // A product split along K keeps one float32 result a part: 64 parts are more than any choice has, and token counts
    // are padded to a tile.
    uint64_t const tokens = round_up(static_cast<uint64_t>(num_tokens), 16);
    uint64_t const width = static_cast<uint64_t>(std::max(form.hidden_size, form.ffn_hidden_size));
    return std::min(most, round_up(64 * sizeof(float) * tokens * width, workspace_alignment));
}

uint64_t digest(Form const& form)
{
    uint32_t clamp, gate_offset;
    std::memcpy(&clamp, &form.clamp, sizeof clamp);
    std::memcpy(&gate_offset, &form.gate_offset, sizeof gate_offset);
    uint64_t const values[] = {static_cast<uint64_t>(form.type), static_cast<uint64_t>(form.activation),
        static_cast<uint64_t>(form.gated), static_cast<uint64_t>(form.has_fc_bias),
        static_cast<uint64_t>(form.has_gate_bias), static_cast<uint64_t>(form.has_proj_bias),
        static_cast<uint64_t>(form.has_residual), static_cast<uint64_t>(form.tf32), clamp, gate_offset,
        static_cast<uint64_t>(form.hidden_size), static_cast<uint64_t>(form.ffn_hidden_size)};
    return hash_of(values, sizeof values);
}

uint64_t hash_of(void const* bytes, size_t size)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; ++i)
    {
        hash = (hash ^ static_cast<unsigned char const*>(bytes)[i]) * 0x100000001b3u;
    }
    return hash;
}

} // namespace trtllm_ext::feed_forward
