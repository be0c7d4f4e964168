/* The kernels' pure functions for tests: they need no CUDA. */
#include "architectures.h"
#include "row_plan.h"

extern "C" void plan_rows(int64_t num_vectors, int* plan)
{
    trtllm_ext::RowPlan const made = trtllm_ext::plan_rows(num_vectors);
    plan[0] = made.vectors_per_thread;
    plan[1] = made.threads_per_row;
    plan[2] = made.rows_per_block;
}

extern "C" bool architectures_serve(char const* architectures, int compute_capability)
{
    return trtllm_ext::architectures_serve(architectures, compute_capability);
}
