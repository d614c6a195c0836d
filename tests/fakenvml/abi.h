/* The part of NVML's binary interface that we serve: types, numbers and structure layouts as NVIDIA documents them. */
#pragma once

typedef int nvmlReturn_t;
enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
    NVML_ERROR_MEMORY = 20,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999,
};

#define MEMORY_ERROR_UNCORRECTED 1u
#define VOLATILE_ECC 0u
#define FI_DEV_GET_GPU_RECOVERY_ACTION 230u
#define VALUE_TYPE_UNSIGNED_INT 1u
#define P2P_CAPS_NVLINK 2u
enum { P2P_STATUS_OK = 0, P2P_STATUS_NOT_SUPPORTED = 5 };
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFull
#define NO_INSTANCE 0xFFFFFFFFu
#define EVENT_ECC_SINGLE 0x1ull
#define EVENT_ECC_DOUBLE 0x2ull
#define EVENT_XID 0x8ull

typedef struct device_handle *nvmlDevice_t;
typedef struct gpu_instance_handle *nvmlGpuInstance_t;
typedef struct compute_instance_handle *nvmlComputeInstance_t;
typedef struct event_set *nvmlEventSet_t;

typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned long long bar1_total, bar1_free, bar1_used; } nvmlBAR1Memory_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { unsigned version, sensor; int temperature; } nvmlTemperature_t;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} nvmlPciInfo_t;

typedef struct {
    unsigned pid;
    unsigned long long used_gpu_memory;
    unsigned gpu_instance_id, compute_instance_id;
} nvmlProcessInfo_t;

typedef struct {
    unsigned multiprocessor_count, shared_copy_engines, shared_decoders, shared_encoders, shared_jpeg, shared_ofa;
    unsigned gpu_instance_slices, compute_instance_slices;
    unsigned long long memory_mib;
} nvmlDeviceAttributes_t;

typedef struct { unsigned start, size; } nvmlPlacement_t;

typedef struct {
    unsigned id, is_p2p_supported, slice_count, instance_count, multiprocessor_count;
    unsigned copy_engines, decoders, encoders, jpeg, ofa;
    unsigned long long memory_mib;
} nvmlGpuInstanceProfileInfo_t;

typedef struct {
    unsigned version, id, is_p2p_supported, slice_count, instance_count, multiprocessor_count;
    unsigned copy_engines, decoders, encoders, jpeg, ofa;
    unsigned long long memory_mib;
    char name[96];
} nvmlGpuInstanceProfileInfo_v2_t;

typedef struct { nvmlDevice_t device; unsigned id, profile_id; nvmlPlacement_t placement; } nvmlGpuInstanceInfo_t;

typedef struct {
    nvmlDevice_t device;
    nvmlGpuInstance_t gpu_instance;
    unsigned id, profile_id;
    nvmlPlacement_t placement;
} nvmlComputeInstanceInfo_t;

typedef struct {
    nvmlDevice_t device;
    unsigned long long event_type, event_data;
    unsigned gpu_instance_id, compute_instance_id;
} nvmlEventData_t;

typedef struct {
    unsigned field_id, scope_id;
    long long timestamp, latency_us;
    unsigned value_type;
    nvmlReturn_t result;
    unsigned long long value;
} nvmlFieldValue_t;
