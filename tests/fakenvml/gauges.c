/* NVML's calls that read one gauge or setting of a whole GPU: energy, heat, clocks, power, links. */
#include "driver.h"

#include <time.h>

#define POWER_LIMIT_MW 400000u

EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy_mj)
{
    struct timespec now;
    WHOLE_GPU(device);
    clock_gettime(CLOCK_BOOTTIME, &now);
    double elapsed_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9 - v.gpu.energy_at_s;
    *energy_mj = v.gpu.energy_mj + (elapsed_s > 0 ? (unsigned long long)(elapsed_s * v.gpu.power_mw) : 0);
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor, unsigned *celsius)
{
    WHOLE_GPU(device);
    *celsius = v.gpu.temperature_c;
    return sensor == 0 ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *out)
{
    WHOLE_GPU(device);
    if (out->version != (sizeof *out | 1u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    out->temperature = (int)v.gpu.temperature_c;
    return out->sensor == 0 ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned clock, unsigned *mhz)
{
    WHOLE_GPU(device);
    *mhz = clock == 2 ? 1215 : v.gpu.util > 0 ? 1410 : 210;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned clock, unsigned *mhz)
{
    WHOLE_GPU(device);
    *mhz = clock == 2 ? 1215 : 1410;
    return NVML_SUCCESS;
}

EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least, unsigned *most)
{
    WHOLE_GPU(device);
    *least = POWER_LIMIT_MW / 4;
    *most = POWER_LIMIT_MW;
    return NVML_SUCCESS;
}

/* ---- calls that answer one plain number ---- */

#define NUMBER(call, type, expression)                                                                                 \
    EXPORT nvmlReturn_t call(nvmlDevice_t device, type *out)                                                           \
    {                                                                                                                  \
        WHOLE_GPU(device);                                                                                             \
        *out = (expression);                                                                                           \
        return NVML_SUCCESS;                                                                                           \
    }

NUMBER(nvmlDeviceGetMinorNumber, unsigned, v.gpu.minor)
NUMBER(nvmlDeviceGetPowerUsage, unsigned, v.gpu.power_mw)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, POWER_LIMIT_MW)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, POWER_LIMIT_MW)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, POWER_LIMIT_MW)
NUMBER(nvmlDeviceGetPerformanceState, unsigned, 0)
NUMBER(nvmlDeviceGetPersistenceMode, unsigned, 1)
NUMBER(nvmlDeviceGetComputeMode, unsigned, 0)
NUMBER(nvmlDeviceGetDisplayMode, unsigned, 0)
NUMBER(nvmlDeviceGetDisplayActive, unsigned, 0)
NUMBER(nvmlDeviceGetArchitecture, unsigned, 7)
NUMBER(nvmlDeviceGetBrand, unsigned, 14)
NUMBER(nvmlDeviceGetNumGpuCores, unsigned, 6912)
NUMBER(nvmlDeviceGetMemoryBusWidth, unsigned, 5120)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, 4)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, 4)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned, 16)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, 16)
NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned, 0)
