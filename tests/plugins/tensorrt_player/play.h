/* What the commands of a script have made so far, and the longer commands. */
#ifndef TENSORRT_PLAYER_PLAY_H
#define TENSORRT_PLAYER_PLAY_H

#include "host.h"

#include <memory>
#include <string>
#include <vector>

namespace player
{

struct Played
{
    LayerName name;
    std::vector<Field> fields;
    std::vector<Input> inputs;
    std::vector<std::vector<uint8_t>> data; // of the inputs
    std::unique_ptr<Host> host;
    size_t workspace_size = 0;
    std::string folder; // for outputs
    int64_t batch = 0;
};

/* The inputs' least, best or most dimensions. */
std::vector<nvinfer1::Dims> shapes(Played const& played, nvinfer1::Dims Input::*which);

/* Everything that a builder asks of a layer, for the inputs' profile and one up to `wider` times as long. */
void build(Played& played, int64_t wider);

/* Runs the layer, and where num_replays is not 0, that often from a graph. */
void run(Played& played, int32_t num_replays);

} // namespace player

#endif
