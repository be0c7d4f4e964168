/* The fields of one layer: values for every field of its operation's record, checked by name and type. */
#ifndef TRTLLM_EXT_PLUGINS_FIELDS_H
#define TRTLLM_EXT_PLUGINS_FIELDS_H

#include "plugins/tensorrt/record.h"

#include <string>
#include <vector>

namespace trtllm_ext::plugins
{

/* A field as somebody gave it. double holds every int32 and every float32. */
struct FieldValue
{
    std::string name;
    FieldType type;
    double value;
};

class Fields
{
public:
    /*
     * Takes the values given and the defaults of the rest. Throws Refusal for a name that the record does not have or
     * that is given twice, another type, a number that is not finite, and a required field that is missing.
     */
    Fields(OperationRecord const& record, std::vector<FieldValue> const& given);

    OperationRecord const& record() const
    {
        return *record_;
    }

    int32_t integer(char const* name) const;
    float number(char const* name) const;

    /* An integer of [least, most]; Refusal otherwise. */
    int32_t integer(char const* name, int32_t least, int32_t most) const;

    /* 0 or 1; Refusal otherwise. */
    bool flag(char const* name) const
    {
        return integer(name, 0, 1) != 0;
    }

    /* All of them, in the record's order. */
    std::vector<FieldValue> values() const;

    /* "type=2 activation=5 ...", for people and for caches. */
    std::string text() const;

private:
    int32_t index_of(std::string const& name) const;

    OperationRecord const* record_;
    std::vector<double> values_;
};

} // namespace trtllm_ext::plugins

#endif
