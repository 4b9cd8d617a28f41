// SPDX-License-Identifier: Apache-2.0
//
// The package's modules as frozen ones (https://docs.python.org/3/c-api/import.html, PyImport_FrozenModules),
// from a file that was made with the package.  Searching and reading some sixty .pyc files is a tenth
// of what `create` takes.
//
// Without the file, or with one that isn't of this build, all modules come from their own files; so
// does one whose source was edited, as far as its size shows that.
//
// Part of pyrunc.c, which includes it.

#define FROZEN_FILE "pyrunc/_frozen.bin"

// Its layout: tools/freeze.py.
struct frozen_head {
	char mark[8];
	char magic[4];
	uint32_t modules;
};
struct frozen_entry {
	uint32_t name, path, source_size, code, code_size, is_package;
};

static bool
is_text(const char *file, size_t size, uint32_t offset)
{
	return offset < size && memchr(file + offset, '\0', size - offset) != NULL;
}

// Whether the module's source is what it was when the file was made; one of the standard library isn't looked at.
static bool
is_source(int package, const char *path, uint32_t size)
{
	struct stat st;

	return *path == '\0' || (fstatat(package, path, &st, 0) == 0 && st.st_size == size);
}

static struct _frozen *
frozen_table(const char *file, size_t size, int package)
{
	const struct frozen_head *head = (const void *)file;
	const struct frozen_entry *entry = (const void *)(head + 1);

	if (size < sizeof *head || memcmp(head->mark, "PYFROZEN", 8) != 0 ||
	    memcmp(head->magic, PYRUNC_MAGIC, 4) != 0 || head->modules > (size - sizeof *head) / sizeof *entry)
		return NULL;
	struct _frozen *table = calloc(head->modules + 1, sizeof *table);  // as long as the process lives
	struct _frozen *next = table;
	if (table == NULL)
		return NULL;
	for (uint32_t i = 0; i < head->modules; i++, entry++) {
		if (!is_text(file, size, entry->name) || !is_text(file, size, entry->path) ||
		    entry->code > size || entry->code_size > size - entry->code)
			return NULL;
		if (!is_source(package, file + entry->path, entry->source_size))
			continue;
		next->name = file + entry->name;
		next->code = (const unsigned char *)file + entry->code;
		next->size = (int)entry->code_size;
		next->is_package = entry->is_package != 0;
		next++;
	}
	return table;
}

// Before the interpreter starts.  `package` is the directory that holds pyrunc/.
static bool
offer_frozen_modules(const char *package)
{
	struct stat st;
	const struct _frozen *table = NULL;
	int directory = open(package, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = openat(directory, FROZEN_FILE, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0) {
		void *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (file != MAP_FAILED)
			table = frozen_table(file, (size_t)st.st_size, directory);
	}
	close(fd);
	close(directory);
	if (table != NULL)
		*py.PyImport_FrozenModules = table;
	return table != NULL;
}

// The importer of frozen modules takes their __file__ and __path__ to be below sys._stdlib_dir, and leaves them out
// where that is None, as it is here (Python 3.11; later ones know their library).  `os` and what it needs, frozen in
// the interpreter, are to have no wrong one.
static void
locate_frozen_modules(const char *package)
{
	PyObject *encodings = py.PyImport_ImportModule("encodings");
	PyObject *path = encodings == NULL ? NULL : py.PyObject_GetAttrString(encodings, "__path__");
	PyObject *directory = py.PyUnicode_DecodeFSDefault(package);

	PyObject *own = py.PyUnicode_DecodeFSDefault(PYRUNC_STDLIB "/encodings");
	int known = path == NULL || own == NULL ? -1 : py.PySequence_Contains(path, own);

	if (known < 0 || directory == NULL || (!known && py.PyObject_CallMethod(path, "append", "O", own) == NULL) ||
	    py.PyImport_ImportModule("os") == NULL || py.PySys_SetObject("_stdlib_dir", directory) < 0) {
		py.PyErr_Print();
		_exit(1);
	}
}
