/* TensorRT's own part in the play: what libnvinfer.so has for plugins. */
#ifndef TENSORRT_PLAYER_NVINFER_PART_H
#define TENSORRT_PLAYER_NVINFER_PART_H

#include <NvInferRuntime.h>

#include <memory>
#include <vector>

namespace player
{

/* Expressions for dimensions. A value of -1 is one that is known when the engine runs only. */
class Expressions final : public nvinfer1::IExprBuilder
{
public:
    Expressions();
    ~Expressions() override;

    nvinfer1::IDimensionExpr const* unknown();

private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

/* The number of creators in the registry. */
int32_t num_registered();

/* Whether the logger says nothing. */
void set_quiet(bool quiet);

} // namespace player

#endif
