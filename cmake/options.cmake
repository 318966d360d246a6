# Compiler flags, sanitizers, dependencies.
include(CheckCCompilerFlag)
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(NETTLE REQUIRED IMPORTED_TARGET nettle)
pkg_check_modules(LIBXML2 REQUIRED IMPORTED_TARGET libxml-2.0)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
pkg_check_modules(EDIT IMPORTED_TARGET libedit)

# oneDNN multiplies matrices in training. Only its headers are needed here: the library is opened when the first product is
# wanted, and without it (or for another machine) our own kernels do.
if(SALA_DNNL)
    find_path(SALA_DNNL_INCLUDE oneapi/dnnl/dnnl.h)
    mark_as_advanced(SALA_DNNL_INCLUDE)
    if(SALA_DNNL_INCLUDE)
        include(CheckCSourceCompiles)
        set(CMAKE_REQUIRED_INCLUDES ${SALA_DNNL_INCLUDE})
        check_c_source_compiles("
            #include <oneapi/dnnl/dnnl.h>
            #if DNNL_VERSION_MAJOR < 2 || (DNNL_CPU_RUNTIME != DNNL_RUNTIME_OMP && DNNL_CPU_RUNTIME != DNNL_RUNTIME_SEQ)
            #error another runtime
            #endif
            int main(void) { return 0; }" SALA_DNNL_WORKS)
        unset(CMAKE_REQUIRED_INCLUDES)
    endif()
    if(SALA_DNNL_WORKS)
        add_library(sala_dnnl INTERFACE)
        target_include_directories(sala_dnnl SYSTEM INTERFACE ${SALA_DNNL_INCLUDE})
        target_compile_definitions(sala_dnnl INTERFACE SALA_HAVE_DNNL)
        target_link_libraries(sala_dnnl INTERFACE ${CMAKE_DL_LIBS})
    else()
        message(STATUS "oneDNN (libdnnl-dev) not found: training multiplies with its own kernels, more slowly")
        set(SALA_DNNL OFF)
    endif()
endif()

if(SALA_SANITIZE)
    set(SALA_SANITIZED ON)
else()
    set(SALA_SANITIZED OFF)
endif()
add_library(sala_flags INTERFACE)
target_include_directories(sala_flags INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
target_compile_definitions(sala_flags INTERFACE _GNU_SOURCE SALA_SHARED)
# No contraction: a product and a sum are rounded as written, so that kernels keep the order and number of roundings
# that they state. -fno-math-errno lets sqrt be one instruction; no other relaxed mathematics.
target_compile_options(sala_flags INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wformat=2
    -ffp-contract=off -fno-math-errno -fno-strict-aliasing -fvisibility=hidden
    $<$<BOOL:${SALA_WERROR}>:-Werror>
    $<$<AND:$<CONFIG:Release>,$<NOT:$<BOOL:${SALA_SANITIZED}>>>:-O3>)
if(SALA_SANITIZE)
    # -O1: the kernels' templates take minutes to compile with sanitizers at -O3. Checks in between hide from gcc what it
    # knows of lengths otherwise; the plain builds have that warning.
    target_compile_options(sala_flags INTERFACE -fsanitize=${SALA_SANITIZE} -fno-omit-frame-pointer -g1 -O1
        -fno-sanitize-recover=undefined $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation>)
    target_link_options(sala_flags INTERFACE -fsanitize=${SALA_SANITIZE})
endif()
if(SALA_FUZZ)
    target_compile_options(sala_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" SALA_CPU)
if(SALA_CPU MATCHES "x86_64|amd64")
    set(SALA_ARCH x86)
elseif(SALA_CPU MATCHES "aarch64|arm64")
    set(SALA_ARCH arm)
else()
    set(SALA_ARCH none)
endif()

# ISA flags by file suffix. A machine that lacks the ISA never enters these files (run-time dispatch).
set(SALA_ISA_avx2 "-mavx2 -mfma -mf16c -mbmi2")
set(SALA_ISA_avxvnni "-mavx2 -mfma -mf16c -mbmi2 -mavxvnni")
set(SALA_ISA_avx512 "-mavx2 -mfma -mf16c -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512")
set(SALA_ISA_avx512vnni "${SALA_ISA_avx512} -mavx512vnni")
set(SALA_ISA_avx512bf16 "${SALA_ISA_avx512} -mavx512vnni -mavx512bf16")
set(SALA_ISA_neon "")
set(SALA_ISA_dotprod "-march=armv8.2-a+dotprod+fp16")
set(SALA_ISA_i8mm "-march=armv8.2-a+dotprod+fp16+i8mm")
