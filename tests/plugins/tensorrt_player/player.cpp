/*
 * Plays TensorRT's part for plugins; this is not TensorRT. Reads a script, a command a line, and says what came of each:
 *
 *   load PATH                            dlopen: what the library registers itself
 *   load_by_tensorrt PATH                IPluginRegistry::loadLibrary
 *   init                                 initTrtllmExtPlugins of the library that was loaded
 *   layer OPERATION VERSION NAME         what the next commands are about; forgets fields and inputs
 *   names                                the fields that the creator tells of
 *   field int32|float32|float64 NAME VALUE...
 *   create                               a plugin from the fields; from NULL where none were given
 *   input TYPE LEAST BEST MOST FILE      a tensor: TensorRT's number of its type, its shapes in a profile (4x8), its data
 *   build [WIDER]                        types, shapes, formats, configuration and workspace, as in a build; with a second
 *                                        profile that goes up to WIDER times as many tokens, for a clone
 *   serialize FILE                       what an engine would keep
 *   restore FILE                         the layer of an engine
 *   damage FILE STEP                     restores with every STEPth byte changed, quietly; how many of these were taken
 *   run FOLDER BATCH                     enqueue, at shapes whose first dimension is BATCH where the profile varies it
 *   replay N                             the same, captured once and run N times
 *   drop                                 the end of the layer
 *   allocations                          how many allocations of host memory are alive
 */
#include "play.h"
#include "tensors.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <iostream>
#include <map>
#include <sstream>

namespace player
{

extern std::atomic<int64_t> num_allocations;

namespace
{

using Words = std::istringstream;

void* library = nullptr;

void say_loaded()
{
    std::printf("loaded %d registered %d\n", library != nullptr, num_registered());
}

void load(Played&, Words& words)
{
    std::string path;
    words >> path;
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
    {
        std::printf("dlopen %s\n", dlerror());
    }
    say_loaded();
}

void load_by_tensorrt(Played&, Words& words)
{
    std::string path;
    words >> path;
    library = getPluginRegistry()->loadLibrary(path.c_str());
    say_loaded();
}

void init(Played&, Words&)
{
    using Init = bool (*)(nvinfer1::ILogger*);
    auto const initialize = reinterpret_cast<Init>(dlsym(library, "initTrtllmExtPlugins"));
    bool const done = initialize(nullptr);
    std::printf("init %d registered %d\n", done, num_registered());
}

void layer(Played& played, Words& words)
{
    played = Played{};
    words >> played.name.operation >> played.name.version >> played.name.layer;
}

void names(Played& played, Words&)
{
    std::printf("names");
    for (auto const& name : Host::field_names(played.name))
    {
        std::printf(" %s", name.c_str());
    }
    std::printf("\n");
}

template <typename T>
void append(Field& field, T value)
{
    uint8_t bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    field.data.insert(field.data.end(), bytes, bytes + sizeof(T));
    ++field.length;
}

void add_field(Played& played, Words& words)
{
    std::string type;
    Field field{};
    words >> type >> field.name;
    // Streams read no "nan".
    for (std::string word; words >> word;)
    {
        double const value = std::strtod(word.c_str(), nullptr);
        if (type == "int32")
        {
            field.type = nvinfer1::PluginFieldType::kINT32;
            append(field, static_cast<int32_t>(value));
        }
        else if (type == "float32")
        {
            field.type = nvinfer1::PluginFieldType::kFLOAT32;
            append(field, static_cast<float>(value));
        }
        else
        {
            field.type = nvinfer1::PluginFieldType::kFLOAT64;
            append(field, value);
        }
    }
    played.fields.push_back(field);
}

void create(Played& played, Words&)
{
    played.host = Host::create(played.name, played.fields);
    std::printf("created %d\n", played.host != nullptr);
}

void add_input(Played& played, Words& words)
{
    int32_t type = 0;
    std::string least, best, most, file;
    words >> type >> least >> best >> most >> file;
    played.inputs.push_back({static_cast<nvinfer1::DataType>(type), dims_of(least), dims_of(best), dims_of(most)});
    played.data.push_back(read_file(file));
}

void build_layer(Played& played, Words& words)
{
    int64_t wider = 0;
    words >> wider;
    build(played, wider > 0 ? wider : 1);
}

/* The file begins with the size of the workspace, which an engine knows, too. */
void serialize(Played& played, Words& words)
{
    std::string path;
    words >> path;
    auto bytes = played.host->serialize();
    std::printf("serialized %zu\n", bytes.size());
    uint8_t workspace_size[8];
    std::memcpy(workspace_size, &played.workspace_size, sizeof(workspace_size));
    bytes.insert(bytes.begin(), workspace_size, workspace_size + sizeof(workspace_size));
    write_file(path, bytes);
}

std::vector<uint8_t> read_engine(Words& words, size_t& workspace_size)
{
    std::string path;
    words >> path;
    auto bytes = read_file(path);
    std::memcpy(&workspace_size, bytes.data(), sizeof(workspace_size));
    bytes.erase(bytes.begin(), bytes.begin() + sizeof(workspace_size));
    return bytes;
}

void restore(Played& played, Words& words)
{
    played.host = Host::restore(played.name, read_engine(words, played.workspace_size));
    std::printf("restored %d\n", played.host != nullptr);
}

void damage(Played& played, Words& words)
{
    auto const bytes = read_engine(words, played.workspace_size);
    size_t step = 1;
    words >> step;
    int32_t num_tried = 0;
    int32_t num_taken = 0;
    auto const own = Host::own_bytes(bytes);
    set_quiet(true);
    for (size_t i = 0; i < own.size(); i += step)
    {
        auto damaged = bytes;
        damaged[own[i]] ^= static_cast<uint8_t>(1 << i % 8);
        ++num_tried;
        num_taken += Host::restore(played.name, damaged) != nullptr ? 1 : 0;
    }
    set_quiet(false);
    std::printf("damaged %d taken %d\n", num_tried, num_taken);
}

void run_once(Played& played, Words& words)
{
    words >> played.folder >> played.batch;
    run(played, 0);
}

void replay_runs(Played& played, Words& words)
{
    int32_t num_replays = 0;
    words >> num_replays;
    run(played, num_replays);
}

void tell_allocations(Played&, Words&)
{
    std::printf("allocations %lld\n", static_cast<long long>(num_allocations));
}

using Command = void (*)(Played&, Words&);

Command command_of(std::string const& verb)
{
    static std::map<std::string, Command> const commands{
        {"load", load},
        {"load_by_tensorrt", load_by_tensorrt},
        {"init", init},
        {"layer", layer},
        {"names", names},
        {"field", add_field},
        {"create", create},
        {"input", add_input},
        {"build", build_layer},
        {"serialize", serialize},
        {"restore", restore},
        {"damage", damage},
        {"run", run_once},
        {"replay", replay_runs},
        {"drop", [](Played& played, Words&) { played.host.reset(); }},
        {"allocations", tell_allocations},
    };
    auto const place = commands.find(verb);
    return place == commands.end() ? nullptr : place->second;
}

} // namespace

} // namespace player

int main()
{
    player::Played played;
    for (std::string line; std::getline(std::cin, line);)
    {
        std::istringstream words(line);
        std::string verb;
        words >> verb;
        auto const command = player::command_of(verb);
        if (command == nullptr)
        {
            std::printf("unknown command %s\n", verb.c_str());
            return 2;
        }
        command(played, words);
        std::fflush(stdout);
    }
    return 0;
}
