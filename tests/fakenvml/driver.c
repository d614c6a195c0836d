/* Owns the snapshot of the topology, re-read when the file is replaced, and the handles. Knows no NVML structure. */
#include "driver.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_TOPOLOGY "/run/fakegpu/topology"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct topology current;
static struct stat read_from;
static bool current_is_good;
static unsigned open_count;
static struct device_handle *devices;
static struct gpu_instance_handle *gpu_instances;

static const char *override(void)
{
    const char *path = getenv("FAKEGPU_TOPOLOGY");
    return path != NULL && path[0] != '\0' ? path : NULL;
}

static bool replaced(const struct stat *now)
{
    return now->st_ino != read_from.st_ino || now->st_dev != read_from.st_dev ||
           now->st_mtim.tv_sec != read_from.st_mtim.tv_sec || now->st_mtim.tv_nsec != read_from.st_mtim.tv_nsec;
}

/* With the lock held. */
static bool refresh(void)
{
    struct stat now;
    const char *path = override() != NULL ? override() : DEFAULT_TOPOLOGY;
    if (stat(path, &now) != 0) {
        current_is_good = false;
        memset(&read_from, 0, sizeof read_from);
        return false;
    }
    if (current_is_good && !replaced(&now))
        return true;
    read_from = now;
    current_is_good = topology_read(path, &current);
    return current_is_good;
}

/* No driver stands behind the nodes, so the kernel answers ENXIO where opening is allowed. */
static nvmlReturn_t node_access(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        close(fd);
        return NVML_SUCCESS;
    }
    if (errno == ENOENT || errno == ENOTDIR)
        return NVML_ERROR_NOT_FOUND;
    return errno == EPERM || errno == EACCES ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}

nvmlReturn_t gpu_access(const struct gpu *gpu)
{
    char path[64];
    if (override() != NULL)
        return NVML_SUCCESS;
    snprintf(path, sizeof path, "/dev/nvidia%u", gpu->minor);
    return node_access(path);
}

nvmlReturn_t instance_access(const struct instance *instance)
{
    char path[64];
    const int caps[] = {instance->gi_cap, instance->ci_cap};
    if (override() != NULL)
        return NVML_SUCCESS;
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/dev/nvidia-caps/nvidia-cap%d", caps[i]);
        nvmlReturn_t result = node_access(path);
        if (result != NVML_SUCCESS)
            return result;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t driver_open(void)
{
    nvmlReturn_t control = override() != NULL ? NVML_SUCCESS : node_access("/dev/nvidiactl");
    if (control != NVML_SUCCESS)
        return control == NVML_ERROR_NO_PERMISSION ? control : NVML_ERROR_DRIVER_NOT_LOADED;
    pthread_mutex_lock(&lock);
    nvmlReturn_t result = !refresh() ? NVML_ERROR_DRIVER_NOT_LOADED
                          : open_count == 0 && current.mismatch ? NVML_ERROR_LIB_RM_VERSION_MISMATCH
                                                                : NVML_SUCCESS;
    if (result == NVML_SUCCESS)
        open_count++;
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t driver_close(void)
{
    pthread_mutex_lock(&lock);
    nvmlReturn_t result = open_count > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    if (open_count > 0)
        open_count--;
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t driver_snapshot(struct topology *out)
{
    pthread_mutex_lock(&lock);
    nvmlReturn_t result = open_count == 0 ? NVML_ERROR_UNINITIALIZED : refresh() ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
    if (result == NVML_SUCCESS)
        memcpy(out, &current, sizeof *out);
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlDevice_t device_handle(const char *uuid)
{
    struct device_handle *h;
    pthread_mutex_lock(&lock);
    for (h = devices; h != NULL && strcmp(h->uuid, uuid) != 0; h = h->next)
        ;
    if (h == NULL && (h = calloc(1, sizeof *h)) != NULL) {
        snprintf(h->uuid, sizeof h->uuid, "%s", uuid);
        h->next = devices;
        devices = h;
    }
    pthread_mutex_unlock(&lock);
    return h;
}

nvmlGpuInstance_t gpu_instance_handle(const char *gpu_uuid, unsigned gi)
{
    struct gpu_instance_handle *h;
    pthread_mutex_lock(&lock);
    for (h = gpu_instances; h != NULL && (h->gi != gi || strcmp(h->gpu_uuid, gpu_uuid) != 0); h = h->next)
        ;
    if (h == NULL && (h = calloc(1, sizeof *h)) != NULL) {
        snprintf(h->gpu_uuid, sizeof h->gpu_uuid, "%s", gpu_uuid);
        h->gi = gi;
        h->next = gpu_instances;
        gpu_instances = h;
    }
    pthread_mutex_unlock(&lock);
    return h;
}

void pause_20ms(void)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};
    nanosleep(&pause, NULL);
}

/* With the lock held: which GPU or instance bears this UUID now. */
static bool find(const char *uuid, struct view *view)
{
    for (unsigned g = 0; g < current.gpu_count; g++) {
        const struct gpu *gpu = &current.gpus[g];
        view->gpu_number = g;
        view->is_mig = false;
        if (strcmp(gpu->uuid, uuid) == 0) {
            view->gpu = *gpu;
            return true;
        }
        for (unsigned i = 0; gpu->mig && i < gpu->instance_count; i++)
            if (strcmp(gpu->instances[i].uuid, uuid) == 0) {
                view->gpu = *gpu;
                view->is_mig = true;
                view->instance = gpu->instances[i];
                view->profile = profile_by_name(view->instance.profile);
                return true;
            }
    }
    return false;
}

static nvmlReturn_t look_once(nvmlDevice_t device, struct view *view)
{
    nvmlReturn_t result = NVML_SUCCESS;
    pthread_mutex_lock(&lock);
    if (open_count == 0)
        result = NVML_ERROR_UNINITIALIZED;
    else if (!refresh())
        result = NVML_ERROR_UNKNOWN;
    else if (device == NULL || !find(device->uuid, view))
        result = NVML_ERROR_INVALID_ARGUMENT;
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t look(nvmlDevice_t device, struct view *view)
{
    nvmlReturn_t result;
    while ((result = look_once(device, view)) == NVML_SUCCESS && view->gpu.health == HEALTH_HANG)
        pause_20ms();
    if (result != NVML_SUCCESS)
        return result;
    if (view->gpu.health == HEALTH_LOST)
        return NVML_ERROR_GPU_IS_LOST;
    result = gpu_access(&view->gpu);
    return result == NVML_SUCCESS && view->is_mig ? instance_access(&view->instance) : result;
}

nvmlReturn_t look_whole(nvmlDevice_t device, struct view *view)
{
    nvmlReturn_t result = look(device, view);
    return result == NVML_SUCCESS && view->is_mig ? NVML_ERROR_NOT_SUPPORTED : result;
}

bool process_lives(const struct process *process)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%u", process->pid);
    return access(path, F_OK) == 0;
}

unsigned long long memory_used_mib(const struct view *view, const struct topology *topology)
{
    unsigned long long used = view->is_mig ? view->instance.mem_mib : view->gpu.mem_mib;
    for (unsigned i = 0; !view->is_mig && i < view->gpu.instance_count; i++)
        used += view->gpu.instances[i].mem_mib;
    for (unsigned i = 0; i < topology->process_count; i++) {
        const struct process *p = &topology->processes[i];
        if (p->gpu == view->gpu_number && (!view->is_mig || p->gi == (int)view->instance.gi) && process_lives(p) &&
            p->mem_mib != NOT_OFFERED)
            used += (unsigned long long)p->mem_mib;
    }
    return used;
}
