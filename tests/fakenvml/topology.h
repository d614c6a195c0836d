/* What the simulated driver knows: the topology file as records. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define MAX_GPUS 16
#define MAX_INSTANCES 8
#define MAX_PROCESSES 256
#define MAX_XIDS 64
#define UUID_LENGTH 64
#define NOT_OFFERED (-1)

enum kind { KIND_COMPUTE, KIND_GRAPHICS, KIND_MPS };
enum health { HEALTH_OK, HEALTH_LOST, HEALTH_HANG };

struct instance {
    int gpu;
    unsigned gi, ci, start;
    int gi_cap, ci_cap;
    unsigned long long mem_mib;
    char uuid[UUID_LENGTH];
    char profile[24];
};

struct gpu {
    unsigned minor;
    bool mig;
    enum health health;
    unsigned util, mem_util, temperature_c, power_mw;
    unsigned long long mem_mib, energy_mj;
    double energy_at_s; /* CLOCK_BOOTTIME at which energy_mj was true */
    unsigned long long ecc_uncorrected;
    bool row_pending, row_failed;
    int page_pending, recovery; /* NOT_OFFERED: this GPU or driver has no such thing */
    bool events;
    unsigned links;             /* bit N: NVLink leads to GPU N */
    char uuid[UUID_LENGTH];
    char serial[24];
    unsigned instance_count;
    struct instance instances[MAX_INSTANCES]; /* in the order of MIG device indices */
};

struct process {
    unsigned gpu;
    int gi; /* -1: on the whole GPU */
    unsigned pid;
    long long mem_mib; /* NOT_OFFERED: the driver does not tell */
    enum kind kind;
};

struct xid {
    unsigned gpu;
    unsigned long long seq, code;
};

struct topology {
    char driver[32], nvml[32];
    bool mismatch; /* the library belongs to another version than the loaded module */
    unsigned cuda;
    unsigned gpu_count, process_count, xid_count;
    struct gpu gpus[MAX_GPUS];
    struct process processes[MAX_PROCESSES];
    struct xid xids[MAX_XIDS];
};

/* Reads the file; false when it is missing or says something impossible. */
bool topology_read(const char *path, struct topology *out);

/* The A100's profiles, by NVML's enumeration (index) and by name. */
struct profile {
    const char *name;
    unsigned number; /* NVML_GPU_INSTANCE_PROFILE_* */
    unsigned id;     /* what nvidia-smi shows */
    unsigned slices, size, count, sms, copy_engines, decoders, jpeg, ofa;
    unsigned long long memory_mib;
    int starts[8]; /* ends with -1 */
};

const struct profile *profile_by_name(const char *name);
const struct profile *profile_by_number(unsigned number);
const struct profile *profile_by_id(unsigned id);
