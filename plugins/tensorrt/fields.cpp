#include "plugins/tensorrt/fields.h"

#include "plugins/tensorrt/refusal.h"

#include <cmath>
#include <cstdio>

namespace trtllm_ext::plugins
{

namespace
{

char const* name_of(FieldType type)
{
    return type == FieldType::INT32 ? "int32" : "float32";
}

/* A default such as 1e-5 is no float32: what a layer has is the nearest one. */
double as_stored(FieldType type, double value)
{
    return type == FieldType::INT32 ? value : static_cast<double>(static_cast<float>(value));
}

std::string text_of(FieldRecord const& field, double value)
{
    char text[40];
    char const* const format = field.type == FieldType::INT32 ? "%.0f" : "%.9g";
    std::snprintf(text, sizeof(text), format, value);
    return text;
}

std::string names_of(OperationRecord const& record)
{
    std::string names;
    for (int32_t i = 0; i < record.num_fields; ++i)
    {
        names += (i == 0 ? "" : ", ") + std::string(record.fields[i].name);
    }
    return names;
}

} // namespace

Fields::Fields(OperationRecord const& record, std::vector<FieldValue> const& given)
    : record_(&record)
{
    for (int32_t i = 0; i < record.num_fields; ++i)
    {
        values_.push_back(as_stored(record.fields[i].type, record.fields[i].default_value));
    }
    std::vector<bool> taken(values_.size(), false);
    for (FieldValue const& field : given)
    {
        int32_t const i = index_of(field.name);
        if (i < 0)
        {
            throw Refusal("field '" + field.name + "' is not one of " + record.name + " version " + record.version
                + "; it has " + names_of(record));
        }
        if (taken[i])
        {
            throw Refusal("field '" + field.name + "' is given twice");
        }
        if (field.type != record.fields[i].type)
        {
            throw Refusal("field '" + field.name + "' is " + name_of(field.type) + "; " + name_of(record.fields[i].type)
                + " is expected");
        }
        if (!std::isfinite(field.value))
        {
            throw Refusal("field '" + field.name + "' is not a finite number");
        }
        taken[i] = true;
        values_[i] = as_stored(field.type, field.value);
    }
    for (int32_t i = 0; i < record.num_fields; ++i)
    {
        if (record.fields[i].required && !taken[i])
        {
            throw Refusal(std::string("field '") + record.fields[i].name + "' is missing (" + record.fields[i].doc + ")");
        }
    }
}

int32_t Fields::index_of(std::string const& name) const
{
    for (int32_t i = 0; i < record_->num_fields; ++i)
    {
        if (name == record_->fields[i].name)
        {
            return i;
        }
    }
    return -1;
}

int32_t Fields::integer(char const* name) const
{
    return static_cast<int32_t>(values_.at(index_of(name)));
}

int32_t Fields::integer(char const* name, int32_t least, int32_t most) const
{
    int32_t const value = integer(name);
    if (value < least || value > most)
    {
        throw Refusal(std::string("field '") + name + "' is " + std::to_string(value) + "; " + std::to_string(least)
            + " to " + std::to_string(most) + " are expected (" + record_->fields[index_of(name)].doc + ")");
    }
    return value;
}

float Fields::number(char const* name) const
{
    return static_cast<float>(values_.at(index_of(name)));
}

std::vector<FieldValue> Fields::values() const
{
    std::vector<FieldValue> all;
    for (int32_t i = 0; i < record_->num_fields; ++i)
    {
        all.push_back({record_->fields[i].name, record_->fields[i].type, values_[i]});
    }
    return all;
}

std::string Fields::text() const
{
    std::string text;
    for (int32_t i = 0; i < record_->num_fields; ++i)
    {
        FieldRecord const& field = record_->fields[i];
        text += (i == 0 ? "" : " ") + std::string(field.name) + "=" + text_of(field, values_[i]);
    }
    return text;
}

} // namespace trtllm_ext::plugins
