/* ECC counters and what the driver asks for, all at zero on a healthy GPU; NVLink; and the calls that this hardware does not support. */
#include "driver.h"

EXPORT nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, unsigned *now, unsigned *pending)
{
    struct view v;
    *now = *pending = 1;
    return look_whole(device, &v);
}

EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned type, unsigned counter,
                                                unsigned long long *count)
{
    WHOLE_GPU(device);
    *count = type == MEMORY_ERROR_UNCORRECTED && counter == VOLATILE_ECC ? v.gpu.ecc_uncorrected : 0;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned type, unsigned counter,
                                                    unsigned location, unsigned long long *count)
{
    (void)location;
    return nvmlDeviceGetTotalEccErrors(device, type, counter, count);
}

EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned *correctable, unsigned *uncorrectable,
                                              unsigned *pending, unsigned *failed)
{
    WHOLE_GPU(device);
    *correctable = 0;
    *uncorrectable = v.gpu.row_pending || v.gpu.row_failed;
    *pending = v.gpu.row_pending;
    *failed = v.gpu.row_failed;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    struct view v;
    nvmlReturn_t result = look(device, &v);
    if (result != NVML_SUCCESS)
        return result;
    for (int i = 0; i < count; i++) {
        bool offered = values[i].field_id == FI_DEV_GET_GPU_RECOVERY_ACTION && v.gpu.recovery != NOT_OFFERED;
        values[i].result = offered ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
        values[i].value_type = VALUE_TYPE_UNSIGNED_INT;
        values[i].value = offered ? (unsigned)v.gpu.recovery : 0xDEADu; /* what is not offered is not zero either */
    }
    return NVML_SUCCESS;
}

/* Ampere remaps rows instead of retiring pages; a GPU that retires them is made with `fakegpu ecc`. */
EXPORT nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, unsigned *pending)
{
    WHOLE_GPU(device);
    if (v.gpu.page_pending == NOT_OFFERED)
        return NVML_ERROR_NOT_SUPPORTED;
    *pending = (unsigned)v.gpu.page_pending;
    return NVML_SUCCESS;
}

/* Peers reach each other over NVLink where it joins them; no other path exists here. NVML's reference does not say what
 * becomes of the answer in MIG mode, which knows no NVLink: this one goes on saying OK, so that callers mind it. */
EXPORT nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t one, nvmlDevice_t other, unsigned capability, unsigned *status)
{
    struct view peer;
    WHOLE_GPU(one);
    result = look_whole(other, &peer);
    if (result != NVML_SUCCESS)
        return result;
    bool linked = (v.gpu.links >> peer.gpu_number & 1) != 0;
    *status = capability == P2P_CAPS_NVLINK && linked ? P2P_STATUS_OK : P2P_STATUS_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

#define UNSUPPORTED(call)                                                                                              \
    EXPORT nvmlReturn_t call(nvmlDevice_t device)                                                                      \
    {                                                                                                                  \
        struct view v;                                                                                                 \
        nvmlReturn_t result = look(device, &v);                                                                        \
        return result == NVML_SUCCESS ? NVML_ERROR_NOT_SUPPORTED : result;                                             \
    }

UNSUPPORTED(nvmlDeviceGetBoardPartNumber)
UNSUPPORTED(nvmlDeviceGetCurrentClocksEventReasons)
UNSUPPORTED(nvmlDeviceGetCurrentClocksThrottleReasons)
UNSUPPORTED(nvmlDeviceGetDetailedEccErrors)
UNSUPPORTED(nvmlDeviceGetDriverModel)
UNSUPPORTED(nvmlDeviceGetDriverModel_v2)
UNSUPPORTED(nvmlDeviceGetFanSpeed)
UNSUPPORTED(nvmlDeviceGetFanSpeed_v2)
UNSUPPORTED(nvmlDeviceGetNumFans)
UNSUPPORTED(nvmlDeviceGetNvLinkState)
UNSUPPORTED(nvmlDeviceGetPcieThroughput)
UNSUPPORTED(nvmlDeviceGetProcessUtilization)
UNSUPPORTED(nvmlDeviceGetProcessesUtilizationInfo)
UNSUPPORTED(nvmlDeviceGetRetiredPages)
UNSUPPORTED(nvmlDeviceGetRunningProcessDetailList)
UNSUPPORTED(nvmlDeviceGetSamples)
UNSUPPORTED(nvmlDeviceGetTemperatureThreshold)
UNSUPPORTED(nvmlDeviceGetVirtualizationMode)
UNSUPPORTED(nvmlGpmQueryDeviceSupport)
