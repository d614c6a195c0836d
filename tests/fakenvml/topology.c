/* Parses the topology file: one record per line, its kind and then key=value. Knows nothing of NVML's calls. */
#include "topology.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct profile profiles[] = {
    {"1g.5gb", 0, 19, 1, 1, 7, 14, 1, 0, 0, 0, 4864, {0, 1, 2, 3, 4, 5, 6, -1}},
    {"2g.10gb", 1, 14, 2, 2, 3, 28, 2, 1, 0, 0, 9856, {0, 2, 4, -1}},
    {"3g.20gb", 2, 9, 3, 4, 2, 42, 3, 2, 0, 0, 19968, {0, 4, -1}},
    {"4g.20gb", 3, 5, 4, 4, 1, 56, 4, 2, 0, 0, 19968, {0, -1}},
    {"7g.40gb", 4, 0, 7, 8, 1, 98, 7, 5, 1, 1, 40192, {0, -1}},
    {"1g.10gb", 9, 15, 1, 2, 4, 14, 1, 1, 0, 0, 9856, {0, 2, 4, 6, -1}},
};
#define PROFILE_COUNT (sizeof profiles / sizeof *profiles)

const struct profile *profile_by_name(const char *name)
{
    for (size_t i = 0; i < PROFILE_COUNT; i++)
        if (strcmp(profiles[i].name, name) == 0)
            return &profiles[i];
    return NULL;
}

const struct profile *profile_by_number(unsigned number)
{
    for (size_t i = 0; i < PROFILE_COUNT; i++)
        if (profiles[i].number == number)
            return &profiles[i];
    return NULL;
}

const struct profile *profile_by_id(unsigned id)
{
    for (size_t i = 0; i < PROFILE_COUNT; i++)
        if (profiles[i].id == id)
            return &profiles[i];
    return NULL;
}

/* The text after "key=" among the words of a line; false when the key is absent or the value too long. */
static bool text(const char *line, const char *key, char *out, size_t size)
{
    size_t length = strlen(key);
    for (const char *at = line; (at = strstr(at, key)) != NULL; at += length) {
        if (at == line || at[-1] != ' ' || at[length] != '=')
            continue;
        const char *value = at + length + 1;
        size_t n = strcspn(value, " \n");
        if (n == 0 || n >= size)
            return false;
        memcpy(out, value, n);
        out[n] = '\0';
        return true;
    }
    return false;
}

static bool real(const char *line, const char *key, double *out)
{
    char word[40], *end;
    if (!text(line, key, word, sizeof word))
        return false;
    *out = strtod(word, &end);
    return *end == '\0';
}

static bool whole(const char *line, const char *key, unsigned long long *out)
{
    char word[40], *end;
    if (!text(line, key, word, sizeof word) || word[0] == '-')
        return false;
    *out = strtoull(word, &end, 10);
    return *end == '\0';
}

static bool number(const char *line, const char *key, unsigned *out)
{
    unsigned long long value;
    if (!whole(line, key, &value) || value > 0xFFFFFFFFull)
        return false;
    *out = (unsigned)value;
    return true;
}

/* A whole number, or NOT_OFFERED. */
static bool perhaps(const char *line, const char *key, long long *out)
{
    char word[40], *end;
    if (!text(line, key, word, sizeof word))
        return false;
    *out = strtoll(word, &end, 10);
    return *end == '\0' && *out >= NOT_OFFERED;
}

static bool flag(const char *line, const char *key, bool *out)
{
    unsigned value;
    if (!number(line, key, &value) || value > 1)
        return false;
    *out = value == 1;
    return true;
}

static bool gpu_index(const char *line, const struct topology *t, unsigned *out)
{
    return number(line, "gpu", out) && *out < t->gpu_count;
}

static bool parse_driver(const char *line, struct topology *t)
{
    return text(line, "version", t->driver, sizeof t->driver) && text(line, "nvml", t->nvml, sizeof t->nvml) &&
           number(line, "cuda", &t->cuda) && flag(line, "mismatch", &t->mismatch);
}

static bool parse_health(const char *line, struct gpu *g)
{
    long long page_pending, recovery;
    if (!perhaps(line, "pagepending", &page_pending) || !perhaps(line, "recovery", &recovery))
        return false;
    g->page_pending = (int)page_pending;
    g->recovery = (int)recovery;
    return whole(line, "ecc", &g->ecc_uncorrected) && flag(line, "rowpending", &g->row_pending) &&
           flag(line, "events", &g->events) &&
           flag(line, "rowfailed", &g->row_failed);
}

static bool parse_gpu(const char *line, struct topology *t)
{
    unsigned index, mig;
    char state[8];
    if (t->gpu_count == MAX_GPUS || !number(line, "index", &index) || index != t->gpu_count)
        return false;
    struct gpu *g = &t->gpus[t->gpu_count++];
    if (!text(line, "state", state, sizeof state) || !number(line, "mig", &mig))
        return false;
    g->mig = mig != 0;
    g->health = strcmp(state, "lost") == 0 ? HEALTH_LOST : strcmp(state, "hang") == 0 ? HEALTH_HANG : HEALTH_OK;
    return text(line, "uuid", g->uuid, sizeof g->uuid) && text(line, "serial", g->serial, sizeof g->serial) &&
           number(line, "minor", &g->minor) && number(line, "util", &g->util) &&
           number(line, "memutil", &g->mem_util) && number(line, "temp", &g->temperature_c) &&
           number(line, "power", &g->power_mw) && whole(line, "mem", &g->mem_mib) &&
           whole(line, "energy", &g->energy_mj) && real(line, "at", &g->energy_at_s) &&
           number(line, "links", &g->links) && parse_health(line, g);
}

static bool parse_instance(const char *line, struct topology *t)
{
    unsigned index, gi_cap, ci_cap;
    if (!gpu_index(line, t, &index) || t->gpus[index].instance_count == MAX_INSTANCES)
        return false;
    struct gpu *g = &t->gpus[index];
    struct instance *i = &g->instances[g->instance_count++];
    i->gpu = (int)index;
    if (!number(line, "gicap", &gi_cap) || !number(line, "cicap", &ci_cap))
        return false;
    i->gi_cap = (int)gi_cap;
    i->ci_cap = (int)ci_cap;
    return number(line, "gi", &i->gi) && number(line, "ci", &i->ci) && number(line, "start", &i->start) &&
           text(line, "uuid", i->uuid, sizeof i->uuid) && whole(line, "mem", &i->mem_mib) &&
           text(line, "profile", i->profile, sizeof i->profile) && profile_by_name(i->profile) != NULL;
}

static bool parse_process(const char *line, struct topology *t)
{
    double gi;
    char kind[12];
    if (t->process_count == MAX_PROCESSES)
        return false;
    struct process *p = &t->processes[t->process_count++];
    if (!gpu_index(line, t, &p->gpu) || !real(line, "gi", &gi) || !text(line, "kind", kind, sizeof kind))
        return false;
    p->gi = (int)gi;
    p->kind = strcmp(kind, "graphics") == 0 ? KIND_GRAPHICS : strcmp(kind, "mps") == 0 ? KIND_MPS : KIND_COMPUTE;
    return number(line, "pid", &p->pid) && perhaps(line, "mem", &p->mem_mib);
}

static bool parse_xid(const char *line, struct topology *t)
{
    if (t->xid_count == MAX_XIDS)
        return false;
    struct xid *x = &t->xids[t->xid_count++];
    return gpu_index(line, t, &x->gpu) && whole(line, "seq", &x->seq) && whole(line, "code", &x->code);
}

static bool parse_line(const char *line, struct topology *t)
{
    static const struct {
        const char *kind;
        bool (*parse)(const char *, struct topology *);
    } kinds[] = {{"driver ", parse_driver},
                 {"gpu ", parse_gpu},
                 {"instance ", parse_instance},
                 {"process ", parse_process},
                 {"xid ", parse_xid}};

    if (line[0] == '#' || line[0] == '\n')
        return true;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strncmp(line, kinds[i].kind, strlen(kinds[i].kind)) == 0)
            return kinds[i].parse(line, t);
    return false;
}

bool topology_read(const char *path, struct topology *out)
{
    char line[1024];
    bool good = true;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    memset(out, 0, sizeof *out);
    while (good && fgets(line, sizeof line, file) != NULL)
        good = parse_line(line, out);
    fclose(file);
    return good && out->driver[0] != '\0';
}
