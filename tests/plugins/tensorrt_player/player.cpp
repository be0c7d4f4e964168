/*
 * Plays TensorRT's part for plugins; this is not TensorRT. Reads a script, a command a line, and says what came of each:
 *
 *   load PATH                            dlopen: what the library registers itself
 *   load_by_tensorrt PATH                IPluginRegistry::loadLibrary
 *   init                                 initTrtllmExtPlugins of the library that was loaded
 *   layer OPERATION VERSION NAME         what the next commands are about; forgets fields and inputs
 *   names                                the fields that the creator tells of
 *   field int32|float32|float64 NAME VALUE...
 *   create                               a plugin from the fields
 *   input TYPE LEAST BEST MOST FILE      a tensor: TensorRT's number of its type, its shapes in a profile (4x8), its data
 *   build                                types, shapes, formats, configuration and workspace, as in a build
 *   serialize FILE                       what an engine would keep
 *   restore FILE                         the layer of an engine
 *   damage FILE STEP                     restores with every STEPth byte changed; how many of these were taken
 *   run FOLDER BATCH                     enqueue, at shapes whose first dimension is BATCH where the profile varies it
 *   replay N                             the same, captured once and run N times
 *   drop                                 the end of the layer
 *   allocations                          how many allocations of host memory are alive
 */
#include "device_memory.h"
#include "host.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

namespace player
{

extern std::atomic<int64_t> num_allocations;

namespace
{

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int32_t NUM_TYPES = NV_TENSORRT_MAJOR < 10 ? 7 : 9;
constexpr int32_t NUM_FORMATS = 13;

std::vector<uint8_t> read_file(std::string const& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(std::string const& path, std::vector<uint8_t> const& bytes)
{
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<char const*>(bytes.data()), bytes.size());
}

size_t size_of(DataType type)
{
    switch (static_cast<int32_t>(type))
    {
    case 0: // float32
    case 3: return 4;
    case 1: // float16
    case 7: return 2;
    case 8: return 8;
    default: return 1;
    }
}

size_t size_of(PluginTensorDesc const& tensor)
{
    size_t size = size_of(tensor.type);
    for (int32_t i = 0; i < tensor.dims.nbDims; ++i)
    {
        size *= tensor.dims.d[i];
    }
    return size;
}

Dims dims_of(std::string const& text)
{
    Dims dims{};
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, 'x');)
    {
        dims.d[dims.nbDims++] = std::atoi(part.c_str());
    }
    return dims;
}

std::string text_of(Dims const& dims)
{
    std::string text;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        text += (i == 0 ? "" : "x") + std::to_string(dims.d[i]);
    }
    return text;
}

/* The dimensions of a profile as a network has them: -1 where they vary. */
Dims network_dims(Input const& input)
{
    Dims dims = input.best;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        dims.d[i] = input.least.d[i] == input.most.d[i] ? dims.d[i] : -1;
    }
    return dims;
}

/* Output dimensions, of those of all inputs, by asking the layer. */
std::vector<Dims> outputs_of(Host& host, std::vector<Dims> const& inputs)
{
    Expressions expressions;
    std::vector<nvinfer1::DimsExprs> given;
    for (Dims const& dims : inputs)
    {
        nvinfer1::DimsExprs each{};
        each.nbDims = dims.nbDims;
        for (int32_t i = 0; i < dims.nbDims; ++i)
        {
            each.d[i] = dims.d[i] < 0 ? expressions.unknown() : expressions.constant(dims.d[i]);
        }
        given.push_back(each);
    }
    std::vector<Dims> outputs;
    for (auto const& shape : host.output_shapes(given, expressions))
    {
        Dims dims{};
        dims.nbDims = shape.nbDims;
        for (int32_t i = 0; i < shape.nbDims; ++i)
        {
            dims.d[i] = shape.d[i]->isConstant() ? shape.d[i]->getConstantValue() : -1;
        }
        outputs.push_back(dims);
    }
    return outputs;
}

class Play
{
public:
    void command(std::string const& line)
    {
        std::istringstream words(line);
        std::string verb;
        words >> verb;
        if (verb == "load" || verb == "load_by_tensorrt")
        {
            load(verb, words);
        }
        else if (verb == "init")
        {
            using Init = bool (*)(nvinfer1::ILogger*);
            auto const init = reinterpret_cast<Init>(dlsym(library_, "initTrtllmExtPlugins"));
            bool const done = init(nullptr);
            std::printf("init %d registered %d\n", done, num_registered());
        }
        else if (verb == "layer")
        {
            words >> name_.operation >> name_.version >> name_.layer;
            fields_.clear();
            inputs_.clear();
            data_.clear();
        }
        else if (verb == "names")
        {
            std::printf("names");
            for (auto const& name : Host::field_names(name_))
            {
                std::printf(" %s", name.c_str());
            }
            std::printf("\n");
        }
        else if (verb == "field")
        {
            add_field(words);
        }
        else if (verb == "create")
        {
            host_ = Host::create(name_, fields_);
            std::printf("created %d\n", host_ != nullptr);
        }
        else if (verb == "input")
        {
            add_input(words);
        }
        else if (verb == "build")
        {
            build();
        }
        else if (verb == "serialize" || verb == "restore" || verb == "damage")
        {
            keep(verb, words);
        }
        else if (verb == "run")
        {
            words >> folder_ >> batch_;
            run(0);
        }
        else if (verb == "replay")
        {
            int32_t num_replays = 0;
            words >> num_replays;
            run(num_replays);
        }
        else if (verb == "drop")
        {
            host_.reset();
        }
        else if (verb == "allocations")
        {
            std::printf("allocations %lld\n", static_cast<long long>(num_allocations));
        }
        else if (!verb.empty())
        {
            std::printf("unknown command %s\n", verb.c_str());
        }
    }

private:
    void load(std::string const& verb, std::istringstream& words)
    {
        std::string path;
        words >> path;
        library_ = verb == "load" ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : getPluginRegistry()->loadLibrary(path.c_str());
        if (library_ == nullptr && verb == "load")
        {
            std::printf("dlopen %s\n", dlerror());
        }
        std::printf("loaded %d registered %d\n", library_ != nullptr, num_registered());
    }

    void add_field(std::istringstream& words)
    {
        std::string type;
        Field field{};
        words >> type >> field.name;
        for (double value; words >> value; ++field.length)
        {
            auto const integer = static_cast<int32_t>(value);
            auto const number = static_cast<float>(value);
            void const* const data = type == "int32" ? static_cast<void const*>(&integer)
                : type == "float32"                  ? static_cast<void const*>(&number)
                                                     : &value;
            auto const* const begin = static_cast<uint8_t const*>(data);
            field.data.insert(field.data.end(), begin, begin + (type == "float64" ? 8 : 4));
        }
        field.type = type == "int32" ? nvinfer1::PluginFieldType::kINT32
            : type == "float32"      ? nvinfer1::PluginFieldType::kFLOAT32
                                     : nvinfer1::PluginFieldType::kFLOAT64;
        fields_.push_back(field);
    }

    void add_input(std::istringstream& words)
    {
        int32_t type = 0;
        std::string least, best, most, file;
        words >> type >> least >> best >> most >> file;
        inputs_.push_back({static_cast<DataType>(type), dims_of(least), dims_of(best), dims_of(most)});
        data_.push_back(read_file(file));
    }

    static DynamicPluginTensorDesc dynamic(PluginTensorDesc desc, Dims const& least, Dims const& best, Dims const& most)
    {
        DynamicPluginTensorDesc tensor{};
        tensor.desc = desc;
        tensor.min = least;
        tensor.max = most;
#if NV_TENSORRT_MAJOR >= 10
        tensor.opt = best;
#else
        (void) best;
#endif
        return tensor;
    }

    std::vector<Dims> shapes(Dims Input::*which) const
    {
        std::vector<Dims> all;
        for (Input const& input : inputs_)
        {
            all.push_back(input.*which);
        }
        return all;
    }

    /* All types and formats, tensor after tensor, as a builder asks; the one combination that is left is the layer's. */
    std::vector<PluginTensorDesc> find_formats()
    {
        std::vector<PluginTensorDesc> tensors;
        auto const num_inputs = static_cast<int32_t>(inputs_.size());
        for (int32_t i = 0; i < num_inputs + host_->num_outputs(); ++i)
        {
            std::vector<PluginTensorDesc> found;
            for (int32_t type = 0; type < NUM_TYPES; ++type)
            {
                for (int32_t format = 0; format < NUM_FORMATS; ++format)
                {
                    auto asked = tensors;
                    asked.push_back({Dims{}, static_cast<DataType>(type), static_cast<TensorFormat>(format), 0});
                    asked.resize(num_inputs + host_->num_outputs());
                    if (host_->supports(i, asked, num_inputs))
                    {
                        found.push_back(asked[i]);
                    }
                }
            }
            std::printf("formats %d:", i);
            for (auto const& each : found)
            {
                std::printf(" %d/%d", static_cast<int>(each.type), static_cast<int>(each.format));
            }
            std::printf("\n");
            tensors.push_back(found.empty() ? PluginTensorDesc{} : found[0]);
        }
        return tensors;
    }

    void build()
    {
        if (host_ == nullptr)
        {
            std::printf("no layer\n");
            return;
        }
        auto const types = host_->output_types(inputs_);
        std::vector<Dims> network;
        for (Input const& input : inputs_)
        {
            network.push_back(network_dims(input));
        }
        auto const in_network = outputs_of(*host_, network);
        for (size_t i = 0; i < types.size(); ++i)
        {
            std::printf("output %d %s\n", static_cast<int>(types[i]), text_of(in_network[i]).c_str());
        }
        auto const tensors = find_formats();
        auto const least = outputs_of(*host_, shapes(&Input::least));
        auto const best = outputs_of(*host_, shapes(&Input::best));
        auto const most = outputs_of(*host_, shapes(&Input::most));
        std::vector<DynamicPluginTensorDesc> in;
        std::vector<DynamicPluginTensorDesc> out;
        for (size_t i = 0; i < inputs_.size(); ++i)
        {
            PluginTensorDesc desc = tensors[i];
            desc.dims = network[i];
            in.push_back(dynamic(desc, inputs_[i].least, inputs_[i].best, inputs_[i].most));
        }
        for (size_t i = 0; i < types.size(); ++i)
        {
            PluginTensorDesc desc = tensors[inputs_.size() + i];
            desc.dims = in_network[i];
            out.push_back(dynamic(desc, least[i], best[i], most[i]));
        }
        std::printf("configured %d\n", host_->configure(in, out));
        workspace_size_ = host_->workspace_size(in, out);
        std::printf("workspace %zu\n", workspace_size_);
    }

    void keep(std::string const& verb, std::istringstream& words)
    {
        std::string path;
        words >> path;
        if (verb == "serialize")
        {
            auto const bytes = host_->serialize();
            write_file(path, bytes);
            std::printf("serialized %zu\n", bytes.size());
            return;
        }
        auto const bytes = read_file(path);
        if (verb == "restore")
        {
            host_ = Host::restore(name_, bytes);
            std::printf("restored %d\n", host_ != nullptr);
            return;
        }
        size_t step = 1;
        words >> step;
        int32_t num_tried = 0;
        int32_t num_taken = 0;
        auto const own = Host::own_bytes(bytes);
        for (size_t i = 0; i < own.size(); i += step)
        {
            auto damaged = bytes;
            damaged[own[i]] ^= static_cast<uint8_t>(1 << i % 8);
            ++num_tried;
            num_taken += Host::restore(name_, damaged) != nullptr;
        }
        std::printf("damaged %d taken %d\n", num_tried, num_taken);
    }

    std::vector<PluginTensorDesc> at_batch(std::vector<Dims> const& shapes, std::vector<DataType> const& types) const
    {
        std::vector<PluginTensorDesc> tensors;
        for (size_t i = 0; i < shapes.size(); ++i)
        {
            tensors.push_back({shapes[i], types[i], TensorFormat::kLINEAR, 0});
        }
        return tensors;
    }

    void run(int32_t num_replays)
    {
        if (host_ == nullptr)
        {
            std::printf("no layer\n");
            return;
        }
        std::vector<Dims> dims = shapes(&Input::best);
        std::vector<DataType> types;
        for (size_t i = 0; i < dims.size(); ++i)
        {
            dims[i].d[0] = inputs_[i].least.d[0] == inputs_[i].most.d[0] ? dims[i].d[0] : batch_;
            types.push_back(inputs_[i].type);
        }
        auto const in = at_batch(dims, types);
        auto const out = at_batch(outputs_of(*host_, dims), host_->output_types(inputs_));
        std::vector<DeviceMemory> memory;
        std::vector<void const*> sources;
        std::vector<void*> targets;
        for (size_t i = 0; i < in.size(); ++i)
        {
            memory.emplace_back(size_of(in[i]));
            data_[i].resize(size_of(in[i]));
            memory.back().write(data_[i]);
            sources.push_back(memory.back().data());
        }
        for (auto const& tensor : out)
        {
            memory.emplace_back(size_of(tensor));
            targets.push_back(memory.back().data());
        }
        memory.emplace_back(workspace_size_);
        cudaStream_t stream = nullptr;
        require(cudaStreamCreate(&stream), "cudaStreamCreate");
        int32_t const changed = host_->change_shapes(in, out);
        auto const enqueue
            = [&] { return host_->enqueue(in, out, sources, targets, memory.back().data(), stream); };
        int32_t const status = enqueue();
        cudaError_t const after = cudaStreamSynchronize(stream);
        std::printf("run %d changed %d cuda %d\n", status, changed, static_cast<int>(after));
        if (num_replays > 0)
        {
            replay_runs(stream, num_replays, enqueue, memory, in.size());
        }
        finish(memory, in.size(), status);
        require(cudaStreamDestroy(stream), "cudaStreamDestroy");
    }

    void finish(std::vector<DeviceMemory> const& memory, size_t num_inputs, int32_t status) const
    {
        bool whole = true;
        for (size_t i = 0; i < memory.size(); ++i)
        {
            whole = whole && memory[i].margin_is_whole();
            bool const is_output = i >= num_inputs && i + 1 < memory.size();
            if (is_output && status == 0)
            {
                write_file(folder_ + "/output_" + std::to_string(i - num_inputs), memory[i].read());
            }
        }
        std::printf("margins %d\n", whole);
    }

    template <typename Enqueue>
    void replay_runs(cudaStream_t stream, int32_t num_replays, Enqueue const& enqueue,
        std::vector<DeviceMemory> const& memory, size_t num_inputs) const
    {
#ifdef TENSORRT_PLAYER_ON_CPU
        (void) stream, (void) num_replays, (void) enqueue, (void) memory, (void) num_inputs;
        std::printf("replays none on the CPU\n");
#else
        auto const results = [&]
        {
            std::vector<std::vector<uint8_t>> all;
            for (size_t i = num_inputs; i + 1 < memory.size(); ++i)
            {
                all.push_back(memory[i].read());
            }
            return all;
        };
        auto const first = results();
        int32_t num_same = 0;
        bool const captured
            = replay(stream, num_replays, enqueue, [&] { num_same += results() == first ? 1 : 0; });
        std::printf("replays %d captured %d same %d\n", num_replays, captured, num_same);
#endif
    }

    void* library_ = nullptr;
    LayerName name_;
    std::vector<Field> fields_;
    std::vector<Input> inputs_;
    std::vector<std::vector<uint8_t>> data_;
    std::unique_ptr<Host> host_;
    size_t workspace_size_ = 0;
    std::string folder_;
    int64_t batch_ = 0;
};

} // namespace

} // namespace player

int main()
{
    player::Play play;
    for (std::string line; std::getline(std::cin, line);)
    {
        play.command(line);
        std::fflush(stdout);
    }
    return 0;
}
