#include "feed_forward_choices.h"

#include "status.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

namespace trtllm_ext::feed_forward
{
namespace
{

constexpr uint32_t format_version = 1;
constexpr char magic[8] = {'T', 'X', 'F', 'F', 'C', 'H', 'O', 'I'};

// All in the host's byte order and without padding. A reader of another version leaves the bytes aside.
struct Header
{
    char magic[8];
    uint32_t format_version;
    uint32_t num_entries;
    uint64_t form_digest;
    uint64_t cublaslt_version;
    int64_t compute_capability;
    char device_name[128];
};

struct Entry
{
    int64_t bucket; // its largest token count
    int32_t is_outer;
    float microseconds;
    cublaslt::Algorithm algorithm;
};

static_assert(sizeof(Header) == 168 && sizeof(Entry) == 80, "padding would be written as it is");

// What choices are for: everything but the number of entries.
Header header_of(Plan const& plan)
{
    Header header{};
    std::memcpy(header.magic, magic, sizeof magic);
    header.format_version = format_version;
    header.form_digest = digest(plan.form);
    header.cublaslt_version = plan.cublaslt == nullptr ? 0 : plan.cublaslt->inner.library().version;
    header.compute_capability = plan.machine.device.compute_capability;
    std::snprintf(header.device_name, sizeof header.device_name, "%s", plan.device_name.c_str());
    return header;
}

template <typename Value>
void append(std::vector<unsigned char>& bytes, Value const& value)
{
    auto const* const begin = reinterpret_cast<unsigned char const*>(&value);
    bytes.insert(bytes.end(), begin, begin + sizeof value);
}

template <typename Value>
Value read_at(void const* bytes, uint64_t offset)
{
    Value value;
    std::memcpy(&value, static_cast<unsigned char const*>(bytes) + offset, sizeof value);
    return value;
}

trtllm_ext_status check_undamaged(void const* bytes, uint64_t size)
{
    constexpr uint64_t least = sizeof(Header) + sizeof(uint64_t);
    char const* damage = nullptr;
    if (size < least || std::memcmp(bytes, magic, sizeof magic) != 0)
    {
        damage = "they do not begin as choices do";
    }
    else if (hash_of(bytes, size - sizeof(uint64_t)) != read_at<uint64_t>(bytes, size - sizeof(uint64_t)))
    {
        damage = "their checksum is another one";
    }
    else if (Header const header = read_at<Header>(bytes, 0); header.format_version == format_version
             && size != least + header.num_entries * sizeof(Entry))
    {
        damage = "their size is another one";
    }
    return damage == nullptr ? TRTLLM_EXT_SUCCESS
                             : fail(TRTLLM_EXT_INVALID_ARGUMENT,
                                 "feed_forward: these %llu bytes are no choices, or damaged ones: %s; tune again",
                                 static_cast<unsigned long long>(size), damage);
}

// Whether the entry became a choice of the plan.
bool take_entry(Plan& plan, Entry const& entry)
{
    if (bucket_of(plan.form, entry.bucket) != entry.bucket || entry.bucket < 1)
    {
        return false; // of a plan for other token counts
    }
    Choice const choice{true, true, entry.microseconds, entry.algorithm};
    return entry.is_outer ? plan.cublaslt->outer.take(choice, planned_outer_args(plan.form, entry.bucket))
                          : plan.cublaslt->inner.take(choice, planned_inner_args(plan.form, entry.bucket));
}

std::string quoted(std::string const& text)
{
    std::string quoted = "\"";
    for (char const letter : text)
    {
        if (static_cast<unsigned char>(letter) < 0x20)
        {
            quoted += ' ';
            continue;
        }
        quoted += letter == '"' || letter == '\\' ? std::string("\\") + letter : std::string(1, letter);
    }
    return quoted + "\"";
}

std::string description_of(char const* names, CublasLtProduct const& product, int64_t num_tokens)
{
    Choice const& choice = product.choice(num_tokens);
    char text[256];
    std::snprintf(text, sizeof text, "{\"of\": \"%s\", \"epilogue\": \"%s\", \"chosen\": \"%s\"", names,
        epilogue_name(product.product()),
        choice.is_tuned        ? "by timing"
            : choice.is_there  ? "by cublasLt's heuristic"
                               : "for each run");
    std::string description = text;
    if (choice.is_tuned)
    {
        std::snprintf(text, sizeof text, ", \"microseconds\": %.3f", static_cast<double>(choice.microseconds));
        description += text;
    }
    if (choice.is_there)
    {
        std::snprintf(text, sizeof text, ", \"algorithm\": \"%016llx\"",
            static_cast<unsigned long long>(hash_of(&choice.algorithm, sizeof choice.algorithm)));
        description += text;
    }
    return description + "}";
}

} // namespace

std::vector<unsigned char> write_choices(Plan const& plan)
{
    std::vector<Entry> entries;
    for (int64_t bucket = 1; plan.cublaslt != nullptr && bucket > 0; bucket = bucket_of(plan.form, bucket + 1))
    {
        for (int32_t const is_outer : {0, 1})
        {
            Choice const& choice = (is_outer ? plan.cublaslt->outer : plan.cublaslt->inner).choice(bucket);
            if (choice.is_tuned)
            {
                entries.push_back({bucket, is_outer, choice.microseconds, choice.algorithm});
            }
        }
    }
    Header header = header_of(plan);
    header.num_entries = static_cast<uint32_t>(entries.size());
    std::vector<unsigned char> bytes;
    append(bytes, header);
    for (Entry const& entry : entries)
    {
        append(bytes, entry);
    }
    append(bytes, hash_of(bytes.data(), bytes.size()));
    return bytes;
}

trtllm_ext_status read_choices(Plan& plan, void const* bytes, uint64_t size, int32_t* num_taken)
{
    *num_taken = 0;
    TRTLLM_EXT_CHECK(check_undamaged(bytes, size));
    Header const header = read_at<Header>(bytes, 0);
    Header own = header_of(plan);
    own.num_entries = header.num_entries;
    if (plan.cublaslt == nullptr || std::memcmp(&header, &own, sizeof own) != 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    for (uint32_t i = 0; i < header.num_entries; ++i)
    {
        *num_taken += take_entry(plan, read_at<Entry>(bytes, sizeof header + i * sizeof(Entry))) ? 1 : 0;
    }
    return TRTLLM_EXT_SUCCESS;
}

std::string description_of(Plan const& plan, int64_t num_tokens)
{
    std::string text = "{\"num_tokens\": " + std::to_string(num_tokens)
        + ", \"bucket\": " + std::to_string(bucket_of(plan.form, num_tokens));
    if (num_tokens > 0)
    {
        Road const& road = choose_road(plan.form, num_tokens, plan.machine);
        text += std::string(", \"road\": \"") + road.name + "\""
            + ", \"workspace\": " + std::to_string(road.workspace(plan.form, num_tokens));
    }
    text += ", \"device\": " + quoted(plan.device_name);
    if (plan.cublaslt == nullptr)
    {
        return text + ", \"no_cublaslt\": " + quoted(plan.no_cublaslt) + "}";
    }
    cublaslt::Library const& library = plan.cublaslt->inner.library();
    text += ", \"cublaslt\": " + quoted(library.file) + ", \"cublaslt_version\": " + std::to_string(library.version);
    if (num_tokens > 0)
    {
        text += ", \"products\": ["
            + description_of(plan.form.gated ? "fc, gate" : "fc", plan.cublaslt->inner, num_tokens) + ", "
            + description_of("proj", plan.cublaslt->outer, num_tokens) + "]";
    }
    return text + "}";
}

} // namespace trtllm_ext::feed_forward
