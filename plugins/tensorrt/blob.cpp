#include "plugins/tensorrt/blob.h"

#include "plugins/tensorrt/bytes.h"
#include "plugins/tensorrt/refusal.h"

#include <algorithm>
#include <cstring>

namespace trtllm_ext::plugins
{

namespace
{

constexpr char MAGIC[] = "TLXLAYER";
constexpr size_t MAGIC_SIZE = 8;
constexpr size_t HEADER_SIZE = MAGIC_SIZE + sizeof(uint32_t) + sizeof(uint64_t);

static_assert(sizeof(MAGIC) == MAGIC_SIZE + 1, "the magic is 8 characters");

/* A change of any one byte changes it: each step maps different sums to different sums. */
uint64_t fnv1a(uint8_t const* data, size_t size)
{
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < size; ++i)
    {
        sum = (sum ^ data[i]) * 1099511628211u;
    }
    return sum;
}

std::vector<uint8_t> body_of(OperationRecord const& record, Blob const& blob)
{
    Writer writer;
    writer.text(record.name);
    writer.text(record.version);
    // By name, so that the checksum does not depend on the order in which an interface hands fields back.
    std::vector<FieldValue> fields = blob.fields;
    std::sort(fields.begin(), fields.end(), [](auto const& one, auto const& other) { return one.name < other.name; });
    writer.number(static_cast<uint32_t>(fields.size()));
    for (FieldValue const& field : fields)
    {
        writer.text(field.name);
        writer.number(static_cast<int32_t>(field.type));
        writer.number(field.value);
    }
    writer.bytes(blob.state);
    return writer.take();
}

/* Checks what stands around the body; where the body begins is at HEADER_SIZE. */
void check_frame(uint8_t const* bytes, size_t size)
{
    if (size < HEADER_SIZE + sizeof(uint64_t) || std::memcmp(bytes, MAGIC, MAGIC_SIZE) != 0)
    {
        throw Refusal(std::to_string(size) + " bytes that are no layer of this library");
    }
    Reader reader(bytes + MAGIC_SIZE, size - MAGIC_SIZE);
    uint32_t const format = reader.number<uint32_t>();
    uint64_t const length = reader.number<uint64_t>();
    if (format > BLOB_FORMAT)
    {
        throw Refusal("a layer of format " + std::to_string(format) + "; this library reads format "
            + std::to_string(BLOB_FORMAT) + ". Run the engine with the library it was built with, or build it again");
    }
    if (length != size)
    {
        throw Refusal(std::to_string(size) + " bytes; the layer has " + std::to_string(length));
    }
    uint64_t sum;
    std::memcpy(&sum, bytes + size - sizeof(sum), sizeof(sum));
    if (format == 0 || sum != fnv1a(bytes, size - sizeof(sum)))
    {
        throw Refusal("the layer's bytes are damaged: their checksum is another. Build the engine again");
    }
}

void check_name(char const* what, std::string const& name, char const* expected)
{
    if (name != expected)
    {
        throw Refusal(std::string("a layer of ") + what + " '" + name + "'; '" + expected + "' is expected");
    }
}

} // namespace

std::vector<uint8_t> to_bytes(OperationRecord const& record, Blob const& blob)
{
    std::vector<uint8_t> const body = body_of(record, blob);
    std::vector<uint8_t> bytes(MAGIC, MAGIC + MAGIC_SIZE);
    Writer writer;
    writer.number(BLOB_FORMAT);
    writer.number(static_cast<uint64_t>(HEADER_SIZE + body.size() + sizeof(uint64_t)));
    bytes.insert(bytes.end(), writer.so_far().begin(), writer.so_far().end());
    bytes.insert(bytes.end(), body.begin(), body.end());
    Writer end;
    end.number(fnv1a(bytes.data(), bytes.size()));
    bytes.insert(bytes.end(), end.so_far().begin(), end.so_far().end());
    return bytes;
}

Blob from_bytes(OperationRecord const& record, void const* data, size_t size)
{
    auto const* const bytes = static_cast<uint8_t const*>(data);
    check_frame(bytes, size);
    Reader reader(bytes + HEADER_SIZE, size - HEADER_SIZE - sizeof(uint64_t));
    check_name("operation", reader.text(), record.name);
    check_name("version", reader.text(), record.version);
    Blob blob;
    uint32_t const num_fields = reader.number<uint32_t>();
    for (uint32_t i = 0; i < num_fields; ++i)
    {
        FieldValue field;
        field.name = reader.text();
        field.type = static_cast<FieldType>(reader.number<int32_t>());
        field.value = reader.number<double>();
        blob.fields.push_back(field);
    }
    blob.state = reader.bytes();
    reader.end();
    return blob;
}

uint64_t checksum_of(OperationRecord const& record, Blob const& blob)
{
    std::vector<uint8_t> const bytes = to_bytes(record, blob);
    uint64_t sum;
    std::memcpy(&sum, bytes.data() + bytes.size() - sizeof(sum), sizeof(sum));
    return sum;
}

} // namespace trtllm_ext::plugins
