/*
 * A layer as bytes, as an engine keeps it.
 *
 * magic (8 bytes), format (uint32), length of everything (uint64), name and version of the operation, number of fields
 * (uint32), each field's name, type (int32) and value (double), the operation's state, and an FNV-1a checksum (uint64)
 * of all bytes before it. Strings and state have their length (uint64) before them. Little-endian.
 */
#ifndef TRTLLM_EXT_PLUGINS_BLOB_H
#define TRTLLM_EXT_PLUGINS_BLOB_H

#include "plugins/tensorrt/fields.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace trtllm_ext::plugins
{

/* Goes up when the layout changes. A field that is added to an operation does not change it. */
constexpr uint32_t BLOB_FORMAT = 1;

struct Blob
{
    std::vector<FieldValue> fields;
    std::vector<uint8_t> state;
};

std::vector<uint8_t> to_bytes(OperationRecord const& record, Blob const& blob);

/*
 * The layer of this operation that the bytes are. Throws Refusal, with a sentence for each: foreign bytes, a newer
 * format, other lengths, damage, another operation or version.
 */
Blob from_bytes(OperationRecord const& record, void const* data, size_t size);

/* What to_bytes ends with: for interfaces that keep fields by name and not as one string of bytes. */
uint64_t checksum_of(OperationRecord const& record, Blob const& blob);

} // namespace trtllm_ext::plugins

#endif
