/* NVML's calls about the library, the system and whole devices. MIG's are in mig.c, gauges in gauges.c, events in events.c. */
#include "driver.h"

#include <stdio.h>
#include <string.h>

#define MIB (1024ull * 1024ull)
#define GPU_NAME "NVIDIA A100-SXM4-40GB"
#define GPU_MEMORY_MIB 40960ull

static nvmlReturn_t put(char *out, unsigned size, const char *value)
{
    if (out == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return (unsigned)snprintf(out, size, "%s", value) < size ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

/* ---- library and system ---- */

EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return driver_open();
}

EXPORT nvmlReturn_t nvmlInit_v2(void) { return driver_open(); }
EXPORT nvmlReturn_t nvmlInit(void) { return driver_open(); }
EXPORT nvmlReturn_t nvmlShutdown(void) { return driver_close(); }

EXPORT const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "The operation was successful";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_MEMORY: return "Insufficient Memory";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
    }
}

EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    struct topology t;
    nvmlReturn_t result = driver_snapshot(&t);
    return result == NVML_SUCCESS ? put(version, length, t.driver) : result;
}

EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    struct topology t;
    nvmlReturn_t result = driver_snapshot(&t);
    return result == NVML_SUCCESS ? put(version, length, t.nvml) : result;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    struct topology t;
    nvmlReturn_t result = driver_snapshot(&t);
    if (result == NVML_SUCCESS)
        *version = (int)t.cuda;
    return result;
}

EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length)
{
    char path[32], line[64];
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return NVML_ERROR_NOT_FOUND;
    bool good = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    line[good ? strcspn(line, "\n") : 0] = '\0';
    return put(name, length, line);
}

/* ---- which devices ---- */

/* A GPU whose node is absent does not exist for the caller, as in a container. */
static bool exists(const struct gpu *gpu)
{
    return gpu_access(gpu) != NVML_ERROR_NOT_FOUND;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    struct topology t;
    nvmlReturn_t result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    *count = 0;
    for (unsigned i = 0; i < t.gpu_count; i++)
        *count += exists(&t.gpus[i]);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

/* As the driver does: the handle of a lost GPU is refused, that of a hanging one is waited for. */
static nvmlReturn_t hand_out(const char *uuid, nvmlDevice_t *device)
{
    struct view v;
    nvmlDevice_t handle = device_handle(uuid);
    if (handle == NULL)
        return NVML_ERROR_MEMORY;
    nvmlReturn_t result = look(handle, &v);
    if (result == NVML_SUCCESS)
        *device = handle;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    struct topology t;
    nvmlReturn_t result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned i = 0, visible = 0; i < t.gpu_count; i++)
        if (exists(&t.gpus[i]) && visible++ == index)
            return hand_out(t.gpus[i].uuid, device);
    return NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *device)
{
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    if (uuid == NULL || strlen(uuid) >= UUID_LENGTH)
        return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t result = hand_out(uuid, device);
    return result == NVML_ERROR_INVALID_ARGUMENT ? NVML_ERROR_NOT_FOUND : result;
}

static unsigned pci_bus(unsigned gpu) { return 7 + 8 * gpu; }

EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    struct topology t;
    unsigned domain, bus;
    nvmlReturn_t result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    if (bus_id == NULL || sscanf(bus_id, "%x:%x:", &domain, &bus) != 2)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned i = 0; i < t.gpu_count; i++)
        if (domain == 0 && bus == pci_bus(i) && exists(&t.gpus[i]))
            return hand_out(t.gpus[i].uuid, device);
    return NVML_ERROR_NOT_FOUND;
}

/* ---- identity ---- */

EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length)
{
    struct view v;
    nvmlReturn_t result = look(device, &v);
    return result == NVML_SUCCESS ? put(uuid, length, v.is_mig ? v.instance.uuid : v.gpu.uuid) : result;
}

EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length)
{
    char full[96];
    struct view v;
    nvmlReturn_t result = look(device, &v);
    if (result != NVML_SUCCESS)
        return result;
    snprintf(full, sizeof full, v.is_mig ? GPU_NAME " MIG %s" : GPU_NAME, v.instance.profile);
    return put(name, length, full);
}

EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    struct view v;
    struct topology t;
    nvmlReturn_t result = look(device, &v);
    if (result == NVML_SUCCESS)
        result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    *index = 0;
    if (v.is_mig)
        for (unsigned i = 0; i < v.gpu.instance_count && strcmp(v.gpu.instances[i].uuid, v.instance.uuid) != 0; i++)
            *index += instance_access(&v.gpu.instances[i]) == NVML_SUCCESS;
    else
        for (unsigned i = 0; i < v.gpu_number; i++)
            *index += exists(&t.gpus[i]);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned length)
{
    WHOLE_GPU(device);
    return put(serial, length, v.gpu.serial);
}

EXPORT nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned length)
{
    WHOLE_GPU(device);
    return put(version, length, "92.00.45.00.03");
}

EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    struct view v;
    nvmlReturn_t result = look(device, &v); /* a MIG device answers with its parent's */
    if (result != NVML_SUCCESS)
        return result;
    memset(pci, 0, sizeof *pci);
    pci->bus = pci_bus(v.gpu_number);
    pci->pci_device_id = 0x20B010DE;
    pci->pci_subsystem_id = 0x144E10DE;
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus & 0xFF);
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "0000:%02X:00.0", pci->bus & 0xFF);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    struct view v;
    nvmlReturn_t result = look(device, &v);
    *major = 8;
    *minor = 0;
    return result;
}

/* ---- memory, use and processes ---- */

static nvmlReturn_t memory(nvmlDevice_t device, unsigned long long *total, unsigned long long *used)
{
    struct view v;
    struct topology t;
    nvmlReturn_t result = look(device, &v);
    if (result == NVML_SUCCESS)
        result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    unsigned long long total_mib = v.is_mig ? v.profile->memory_mib : GPU_MEMORY_MIB, used_mib = memory_used_mib(&v, &t);
    *total = total_mib * MIB;
    *used = (used_mib < total_mib ? used_mib : total_mib) * MIB;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out)
{
    nvmlReturn_t result = memory(device, &out->total, &out->used);
    if (result == NVML_SUCCESS)
        out->free = out->total - out->used;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out)
{
    if (out->version != (sizeof *out | 2u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t result = memory(device, &out->total, &out->used);
    out->reserved = 0;
    if (result == NVML_SUCCESS)
        out->free = out->total - out->used;
    return result;
}

EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *out)
{
    struct view v;
    nvmlReturn_t result = look(device, &v);
    out->bar1_total = 65536 * MIB;
    out->bar1_used = MIB;
    out->bar1_free = out->bar1_total - out->bar1_used;
    return result;
}

/* Ampere counts use for a whole GPU alone: neither an instance nor a GPU in MIG mode has a figure. */
EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out)
{
    WHOLE_GPU(device);
    if (v.gpu.mig)
        return NVML_ERROR_NOT_SUPPORTED;
    out->gpu = v.gpu.util;
    out->memory = v.gpu.mem_util;
    return NVML_SUCCESS;
}

static nvmlReturn_t coder_utilization(nvmlDevice_t device, unsigned *percent, unsigned *period_us)
{
    WHOLE_GPU(device);
    *percent = 0;
    *period_us = 167000;
    return v.gpu.mig ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned *percent, unsigned *period_us)
{
    return coder_utilization(device, percent, period_us);
}

EXPORT nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned *percent, unsigned *period_us)
{
    return coder_utilization(device, percent, period_us);
}

/* A whole GPU lists the processes of its instances too; a pid may be on several lists. */
static nvmlReturn_t processes(nvmlDevice_t device, enum kind kind, unsigned *count, nvmlProcessInfo_t *out)
{
    struct view v;
    struct topology t;
    unsigned found = 0;
    nvmlReturn_t result = look(device, &v);
    if (result == NVML_SUCCESS)
        result = driver_snapshot(&t);
    if (result != NVML_SUCCESS)
        return result;
    for (unsigned i = 0; i < t.process_count; i++) {
        const struct process *p = &t.processes[i];
        if (p->gpu != v.gpu_number || p->kind != kind || (v.is_mig && p->gi != (int)v.instance.gi) || !process_lives(p))
            continue;
        if (out != NULL && found < *count)
            out[found] = (nvmlProcessInfo_t){
                .pid = p->pid,
                .used_gpu_memory = p->mem_mib == NOT_OFFERED ? NOT_AVAILABLE : (unsigned long long)p->mem_mib * MIB,
                .gpu_instance_id = p->gi < 0 ? NO_INSTANCE : (unsigned)p->gi,
                .compute_instance_id = p->gi < 0 ? NO_INSTANCE : 0};
        found++;
    }
    result = found > *count ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
    *count = found;
    return result;
}

#define PROCESSES(call, kind)                                                                                          \
    EXPORT nvmlReturn_t call(nvmlDevice_t device, unsigned *count, nvmlProcessInfo_t *out)                             \
    {                                                                                                                  \
        return processes(device, kind, count, out);                                                                    \
    }

PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, KIND_COMPUTE)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, KIND_COMPUTE)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, KIND_GRAPHICS)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, KIND_MPS)
