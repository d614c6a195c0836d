/* NVML's calls about MIG: mode, instances, profiles and placements. Each GPU instance has one compute instance, and
 * lends it its handle. */
#include "driver.h"

#include <stdio.h>
#include <string.h>

#define PROFILE_NUMBERS 0x20u /* beyond the last NVML_GPU_INSTANCE_PROFILE_* */

EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *now, unsigned *pending)
{
    struct view v;
    nvmlReturn_t result = look_whole(device, &v);
    if (result == NVML_SUCCESS)
        *now = *pending = v.gpu.mig;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *is_mig)
{
    struct view v;
    nvmlReturn_t result = look(device, &v);
    if (result == NVML_SUCCESS)
        *is_mig = v.is_mig;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count)
{
    struct view v;
    nvmlReturn_t result = look_whole(device, &v);
    if (result == NVML_SUCCESS)
        *count = v.gpu.mig ? 7 : 0;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *mig)
{
    struct view v;
    nvmlReturn_t result = look_whole(device, &v);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned i = 0, visible = 0; v.gpu.mig && i < v.gpu.instance_count; i++)
        if (instance_access(&v.gpu.instances[i]) == NVML_SUCCESS && visible++ == index) {
            *mig = device_handle(v.gpu.instances[i].uuid);
            return *mig != NULL ? NVML_SUCCESS : NVML_ERROR_MEMORY;
        }
    return index < 7 ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig, nvmlDevice_t *device)
{
    struct view v;
    nvmlReturn_t result = look(mig, &v);
    if (result == NVML_SUCCESS && (*device = device_handle(v.gpu.uuid)) == NULL)
        return NVML_ERROR_MEMORY;
    return result;
}

static nvmlReturn_t look_mig(nvmlDevice_t device, struct view *v)
{
    nvmlReturn_t result = look(device, v);
    return result == NVML_SUCCESS && !v->is_mig ? NVML_ERROR_NOT_SUPPORTED : result;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id)
{
    struct view v;
    nvmlReturn_t result = look_mig(device, &v);
    if (result == NVML_SUCCESS)
        *id = v.instance.gi;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id)
{
    struct view v;
    nvmlReturn_t result = look_mig(device, &v);
    if (result == NVML_SUCCESS)
        *id = v.instance.ci;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    struct view v;
    nvmlReturn_t result = look_mig(device, &v);
    if (result == NVML_SUCCESS)
        *out = (nvmlDeviceAttributes_t){.multiprocessor_count = v.profile->sms,
                                        .shared_copy_engines = v.profile->copy_engines,
                                        .shared_decoders = v.profile->decoders,
                                        .shared_jpeg = v.profile->jpeg,
                                        .shared_ofa = v.profile->ofa,
                                        .gpu_instance_slices = v.profile->slices,
                                        .compute_instance_slices = v.profile->slices,
                                        .memory_mib = v.profile->memory_mib};
    return result;
}

/* ---- profiles ---- */

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned number,
                                                        nvmlGpuInstanceProfileInfo_t *out)
{
    struct view v;
    const struct profile *p = profile_by_number(number);
    nvmlReturn_t result = look_whole(device, &v);
    if (result != NVML_SUCCESS)
        return result;
    if (p == NULL)
        return number < PROFILE_NUMBERS ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT;
    *out = (nvmlGpuInstanceProfileInfo_t){.id = p->id,
                                          .slice_count = p->slices,
                                          .instance_count = p->count,
                                          .multiprocessor_count = p->sms,
                                          .copy_engines = p->copy_engines,
                                          .decoders = p->decoders,
                                          .jpeg = p->jpeg,
                                          .ofa = p->ofa,
                                          .memory_mib = p->memory_mib};
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned number,
                                                         nvmlGpuInstanceProfileInfo_v2_t *out)
{
    nvmlGpuInstanceProfileInfo_t plain;
    if (out->version != (sizeof *out | 2u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t result = nvmlDeviceGetGpuInstanceProfileInfo(device, number, &plain);
    if (result != NVML_SUCCESS)
        return result;
    *out = (nvmlGpuInstanceProfileInfo_v2_t){.version = out->version,
                                             .id = plain.id,
                                             .slice_count = plain.slice_count,
                                             .instance_count = plain.instance_count,
                                             .multiprocessor_count = plain.multiprocessor_count,
                                             .copy_engines = plain.copy_engines,
                                             .decoders = plain.decoders,
                                             .jpeg = plain.jpeg,
                                             .ofa = plain.ofa,
                                             .memory_mib = plain.memory_mib};
    snprintf(out->name, sizeof out->name, "MIG %s", profile_by_number(number)->name);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, unsigned profile_id,
                                                                  nvmlPlacement_t *out, unsigned *count)
{
    struct view v;
    const struct profile *p = profile_by_id(profile_id);
    nvmlReturn_t result = look_whole(device, &v);
    if (result != NVML_SUCCESS)
        return result;
    if (p == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    for (*count = 0; p->starts[*count] >= 0; ++*count)
        if (out != NULL)
            out[*count] = (nvmlPlacement_t){(unsigned)p->starts[*count], p->size};
    return NVML_SUCCESS;
}

/* ---- GPU instances ---- */

static const struct instance *find_gi(const struct gpu *gpu, unsigned gi)
{
    for (unsigned i = 0; i < gpu->instance_count; i++)
        if (gpu->instances[i].gi == gi && instance_access(&gpu->instances[i]) == NVML_SUCCESS)
            return &gpu->instances[i];
    return NULL;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned gi, nvmlGpuInstance_t *out)
{
    struct view v;
    nvmlReturn_t result = look_whole(device, &v);
    if (result != NVML_SUCCESS)
        return result;
    if (find_gi(&v.gpu, gi) == NULL)
        return NVML_ERROR_NOT_FOUND;
    *out = gpu_instance_handle(v.gpu.uuid, gi);
    return *out != NULL ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

EXPORT nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned profile_id, nvmlGpuInstance_t *out,
                                              unsigned *count)
{
    struct view v;
    nvmlReturn_t result = look_whole(device, &v);
    if (result != NVML_SUCCESS)
        return result;
    *count = 0;
    for (unsigned i = 0; i < v.gpu.instance_count; i++)
        if (profile_by_name(v.gpu.instances[i].profile)->id == profile_id)
            out[(*count)++] = gpu_instance_handle(v.gpu.uuid, v.gpu.instances[i].gi);
    return NVML_SUCCESS;
}

/* The GPU and instance that a GPU instance handle stands for now. */
static nvmlReturn_t look_gi(nvmlGpuInstance_t gi, struct view *v)
{
    if (gi == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = look_whole(device_handle(gi->gpu_uuid), v);
    if (result != NVML_SUCCESS)
        return result;
    const struct instance *instance = find_gi(&v->gpu, gi->gi);
    if (instance == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    v->instance = *instance;
    v->profile = profile_by_name(instance->profile);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t gi, nvmlGpuInstanceInfo_t *out)
{
    struct view v;
    nvmlReturn_t result = look_gi(gi, &v);
    if (result == NVML_SUCCESS)
        *out = (nvmlGpuInstanceInfo_t){.device = device_handle(v.gpu.uuid),
                                       .id = v.instance.gi,
                                       .profile_id = v.profile->id,
                                       .placement = {v.instance.start, v.profile->size}};
    return result;
}

EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t gi, unsigned ci, nvmlComputeInstance_t *out)
{
    struct view v;
    nvmlReturn_t result = look_gi(gi, &v);
    if (result != NVML_SUCCESS)
        return result;
    *out = (nvmlComputeInstance_t)gi;
    return ci == v.instance.ci ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t ci, nvmlComputeInstanceInfo_t *out)
{
    struct view v;
    nvmlReturn_t result = look_gi((nvmlGpuInstance_t)ci, &v);
    if (result == NVML_SUCCESS)
        *out = (nvmlComputeInstanceInfo_t){.device = device_handle(v.instance.uuid),
                                           .gpu_instance = (nvmlGpuInstance_t)ci,
                                           .id = v.instance.ci,
                                           .profile_id = v.profile->number,
                                           .placement = {0, v.profile->slices}};
    return result;
}
