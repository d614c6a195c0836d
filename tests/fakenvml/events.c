/* NVML's event sets: Xid errors that the topology lists, each told once to every set that registered its GPU. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct registration {
    char gpu_uuid[UUID_LENGTH];
    unsigned long long types;
    unsigned long long seen; /* sequence number of the last event told, or the newest at registration */
};

struct event_set {
    unsigned count;
    struct registration registrations[MAX_GPUS];
};

EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *out)
{
    *out = calloc(1, sizeof **out);
    return *out != NULL ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    free(set);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    WHOLE_GPU(device);
    *types = v.gpu.events ? EVENT_ECC_SINGLE | EVENT_ECC_DOUBLE | EVENT_XID : 0;
    return NVML_SUCCESS;
}

static unsigned long long newest(const struct topology *t)
{
    unsigned long long seq = 0;
    for (unsigned i = 0; i < t->xid_count; i++)
        seq = t->xids[i].seq > seq ? t->xids[i].seq : seq;
    return seq;
}

EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    struct view v;
    struct topology t;
    nvmlReturn_t result = look_whole(device, &v);
    if (result == NVML_SUCCESS)
        result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    if (set == NULL || set->count == MAX_GPUS)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!v.gpu.events)
        return NVML_ERROR_NOT_SUPPORTED;
    struct registration *r = &set->registrations[set->count++];
    memcpy(r->gpu_uuid, v.gpu.uuid, sizeof r->gpu_uuid);
    r->types = types;
    r->seen = newest(&t);
    return NVML_SUCCESS;
}

/* The oldest event that a registration has not been told; also notes whether its GPU is lost. */
static const struct xid *untold(struct registration *r, const struct topology *t, bool *lost)
{
    for (unsigned g = 0; g < t->gpu_count; g++)
        if (strcmp(t->gpus[g].uuid, r->gpu_uuid) == 0)
            *lost |= t->gpus[g].health == HEALTH_LOST;
    for (unsigned i = 0; i < t->xid_count; i++)
        if (t->xids[i].seq > r->seen && strcmp(t->gpus[t->xids[i].gpu].uuid, r->gpu_uuid) == 0 && r->types & EVENT_XID)
            return &t->xids[i];
    return NULL;
}

static nvmlReturn_t poll_once(nvmlEventSet_t set, nvmlEventData_t *out)
{
    struct topology t;
    bool lost = false;
    nvmlReturn_t result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned i = 0; i < set->count; i++) {
        const struct xid *x = untold(&set->registrations[i], &t, &lost);
        if (x == NULL)
            continue;
        set->registrations[i].seen = x->seq;
        *out = (nvmlEventData_t){.device = device_handle(set->registrations[i].gpu_uuid),
                                 .event_type = EVENT_XID,
                                 .event_data = x->code,
                                 .gpu_instance_id = NO_INSTANCE,
                                 .compute_instance_id = NO_INSTANCE};
        return NVML_SUCCESS;
    }
    return lost ? NVML_ERROR_GPU_IS_LOST : NVML_ERROR_TIMEOUT;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *out, unsigned timeout_ms)
{
    nvmlReturn_t result;
    double deadline = now_s() + timeout_ms / 1e3;
    if (set == NULL || out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    while ((result = poll_once(set, out)) == NVML_ERROR_TIMEOUT && now_s() < deadline)
        pause_20ms();
    return result;
}

EXPORT nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *out, unsigned timeout_ms)
{
    return nvmlEventSetWait_v2(set, out, timeout_ms);
}
