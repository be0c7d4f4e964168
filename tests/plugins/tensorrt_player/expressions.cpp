#include "nvinfer_part.h"

namespace player
{

namespace
{

#if NV_TENSORRT_MAJOR >= 10
using DimensionValue = int64_t;
#else
using DimensionValue = int32_t;
#endif

class Value final : public nvinfer1::IDimensionExpr
{
public:
    explicit Value(DimensionValue value)
        : implementation_(value)
    {
        mImpl = &implementation_;
    }

private:
    class Implementation final : public nvinfer1::apiv::VDimensionExpr
    {
    public:
        explicit Implementation(DimensionValue value)
            : value_(value)
        {
        }

        bool isConstant() const override
        {
            return value_ >= 0;
        }

        DimensionValue getConstantValue() const override
        {
            return value_;
        }

#if NV_TENSORRT_MAJOR >= 10
        bool isSizeTensor() const override
        {
            return false;
        }
#endif

    private:
        DimensionValue value_;
    };

    Implementation implementation_;
};

} // namespace

class Expressions::Implementation final : public nvinfer1::apiv::VExprBuilder
{
public:
    nvinfer1::IDimensionExpr const* constant(DimensionValue value) override
    {
        values_.push_back(std::make_unique<Value>(value));
        return values_.back().get();
    }

    nvinfer1::IDimensionExpr const* operation(
        nvinfer1::DimensionOperation, nvinfer1::IDimensionExpr const&, nvinfer1::IDimensionExpr const&) override
    {
        return nullptr;
    }

#if NV_TENSORRT_MAJOR >= 10
    nvinfer1::IDimensionExpr const* declareSizeTensor(
        int32_t, nvinfer1::IDimensionExpr const&, nvinfer1::IDimensionExpr const&) override
    {
        return nullptr;
    }
#endif

private:
    std::vector<std::unique_ptr<Value>> values_;
};

Expressions::Expressions()
    : implementation_(std::make_unique<Implementation>())
{
    mImpl = implementation_.get();
}

Expressions::~Expressions() = default;

nvinfer1::IDimensionExpr const* Expressions::unknown()
{
    return constant(-1);
}

} // namespace player
