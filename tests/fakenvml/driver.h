/* The simulated driver as the calls see it: handles, what they stand for now, and whether the caller may see them. */
#pragma once

#include "abi.h"
#include "topology.h"

#define EXPORT __attribute__((visibility("default")))

/* A handle stays valid as a pointer for the life of the process; what it stands for is looked up by name each time. */
struct device_handle {
    char uuid[UUID_LENGTH];
    struct device_handle *next;
};

struct gpu_instance_handle {
    char gpu_uuid[UUID_LENGTH];
    unsigned gi;
    struct gpu_instance_handle *next;
};

/* What a device handle stands for at this moment, copied so that no lock outlives the call. */
struct view {
    struct gpu gpu;
    unsigned gpu_number; /* in the topology, not among the visible */
    bool is_mig;
    struct instance instance;
    const struct profile *profile;
};

/* Every call on a device starts here: blocks while the GPU hangs, fails when it is lost, gone or out of reach. */
nvmlReturn_t look(nvmlDevice_t device, struct view *view);

/* As look(), for what exists on whole GPUs only. */
nvmlReturn_t look_whole(nvmlDevice_t device, struct view *view);

/* Opens the body of a call that answers one number about a whole GPU. */
#define WHOLE_GPU(device)                                                                                              \
    struct view v;                                                                                                     \
    nvmlReturn_t result = look_whole(device, &v);                                                                      \
    if (result != NVML_SUCCESS)                                                                                        \
        return result

nvmlReturn_t driver_open(void);
nvmlReturn_t driver_close(void);
nvmlReturn_t driver_snapshot(struct topology *out);

/* Handles by name; NULL only when memory is short. */
nvmlDevice_t device_handle(const char *uuid);
nvmlGpuInstance_t gpu_instance_handle(const char *gpu_uuid, unsigned gi);

/* Whether this process could use the device nodes, as the driver would find on opening them. */
nvmlReturn_t gpu_access(const struct gpu *gpu);
nvmlReturn_t instance_access(const struct instance *instance);

bool process_lives(const struct process *process);
unsigned long long memory_used_mib(const struct view *view, const struct topology *topology);
void pause_20ms(void);
