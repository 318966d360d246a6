# The floors: every module may use the ones above it in this list (lower floors), never one of its own floor.
#                module   floor
set(SALA_MODULES os       0
                 base     1
                 tensor   2
                 kernels  3
                 format   3
                 text     4
                 backend  4
                 state    4
                 model    5
                 grad     5
                 data     5
                 infer    6
                 quant    6
                 train    7
                 api      8)

function(sala_isa_flags files)
    foreach(f ${files})
        if(f MATCHES "_(avx2|avxvnni|avx512|avx512vnni|avx512bf16|neon|dotprod|i8mm)\\.c$")
            set_property(SOURCE ${f} APPEND_STRING PROPERTY COMPILE_FLAGS " ${SALA_ISA_${CMAKE_MATCH_1}}")
        endif()
    endforeach()
endfunction()

set(SALA_LOWER "")      # targets of lower floors
set(SALA_SAME "")       # targets of this floor so far
set(SALA_FLOOR -1)
set(SALA_OBJECTS "")
set(rest ${SALA_MODULES})
while(rest)
    list(POP_FRONT rest mod floor)
    if(NOT floor EQUAL SALA_FLOOR)
        set(SALA_LOWER ${SALA_SAME} ${SALA_LOWER})
        set(SALA_SAME "")
        set(SALA_FLOOR ${floor})
    endif()
    file(GLOB files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${mod}/*.c ${PROJECT_SOURCE_DIR}/src/${mod}/cpu/*.c
         ${PROJECT_SOURCE_DIR}/src/${mod}/ref/*.c ${PROJECT_SOURCE_DIR}/src/${mod}/${SALA_ARCH}/*.c)
    if(files)
        sala_isa_flags("${files}")
        add_library(mod_${mod} STATIC ${files})
        target_link_libraries(mod_${mod} PUBLIC ${SALA_LOWER} sala_flags PkgConfig::JANSSON m Threads::Threads)
        if(mod STREQUAL "format")
            target_link_libraries(mod_format PUBLIC PkgConfig::XXHASH)
        endif()
        if(mod STREQUAL "text")
            target_link_libraries(mod_text PUBLIC PkgConfig::PCRE2 PkgConfig::UTF8PROC)
        endif()
        if(mod STREQUAL "grad" AND SALA_DNNL)
            target_link_libraries(mod_grad PUBLIC sala_dnnl)
        endif()
        if(mod STREQUAL "data")
            target_link_libraries(mod_data PUBLIC PkgConfig::ZLIB PkgConfig::ZSTD)
        endif()
        if(mod STREQUAL "train")
            target_link_libraries(mod_train PUBLIC PkgConfig::YAML ${CMAKE_DL_LIBS})
        endif()
        list(APPEND SALA_SAME mod_${mod})
        list(APPEND SALA_OBJECTS $<TARGET_OBJECTS:mod_${mod}>)
        set(SALA_LIBS_${mod} mod_${mod})
    endif()
endwhile()
set(SALA_ALL_MODS ${SALA_SAME} ${SALA_LOWER})

# The static library is one object in which everything but the public interface is local, as it is in the shared one: names
# that modules share with each other cannot clash with a program's own. Sanitizers mark their data in ways that do not
# survive this, so those builds keep plain objects.
if(SALA_SANITIZE)
    add_library(sala_static STATIC ${SALA_OBJECTS})
else()
    add_custom_command(OUTPUT ${PROJECT_BINARY_DIR}/sala_all.o
        COMMAND ${CMAKE_C_COMPILER} -r -nostdlib -o ${PROJECT_BINARY_DIR}/sala_global.o ${SALA_OBJECTS}
        COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${PROJECT_BINARY_DIR}/sala_global.o ${PROJECT_BINARY_DIR}/sala_all.o
        COMMAND ${CMAKE_COMMAND} -E rm ${PROJECT_BINARY_DIR}/sala_global.o
        DEPENDS ${SALA_OBJECTS} COMMAND_EXPAND_LISTS VERBATIM)
    add_library(sala_static STATIC ${PROJECT_BINARY_DIR}/sala_all.o)
    set_source_files_properties(${PROJECT_BINARY_DIR}/sala_all.o PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
    set_target_properties(sala_static PROPERTIES LINKER_LANGUAGE C)
endif()
set_target_properties(sala_static PROPERTIES OUTPUT_NAME sala)
# Every module in one archive, for programs of tests/parity that look below the public interface.
add_library(sala_parts STATIC EXCLUDE_FROM_ALL ${SALA_OBJECTS})
add_library(sala_shared SHARED ${SALA_OBJECTS})
set_target_properties(sala_shared PROPERTIES OUTPUT_NAME sala VERSION ${PROJECT_VERSION} SOVERSION 0)
foreach(lib sala_static sala_shared)
    target_include_directories(${lib} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                               $<INSTALL_INTERFACE:include>)
    target_link_libraries(${lib} PRIVATE PkgConfig::JANSSON PkgConfig::XXHASH PkgConfig::PCRE2 PkgConfig::UTF8PROC
                          PkgConfig::ZLIB PkgConfig::ZSTD PkgConfig::YAML m Threads::Threads ${CMAKE_DL_LIBS})
endforeach()
if(SALA_SANITIZE)
    target_link_options(sala_shared PRIVATE -fsanitize=${SALA_SANITIZE})
endif()

file(GLOB cli_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/apps/cli/*.c)
if(cli_files)
    add_executable(sala ${cli_files})
    target_include_directories(sala PRIVATE ${PROJECT_SOURCE_DIR}/apps/cli)
    target_link_libraries(sala PRIVATE ${SALA_ALL_MODS} PkgConfig::NETTLE PkgConfig::LIBXML2)
    if(EDIT_FOUND)
        target_link_libraries(sala PRIVATE PkgConfig::EDIT)
        target_compile_definitions(sala PRIVATE SALA_HAVE_LIBEDIT=1)
    endif()
endif()

# Training in several processes: a plug-in, so that only mpirun's users need Open MPI. dist.c gives it the table's own
# arithmetic.
if(SALA_MPI)
    pkg_check_modules(MPI IMPORTED_TARGET ompi-c)
    if(MPI_FOUND)
        add_library(sala_mpi MODULE ${PROJECT_SOURCE_DIR}/apps/mpi/sala_mpi.c ${PROJECT_SOURCE_DIR}/src/train/dist.c)
        target_link_libraries(sala_mpi PRIVATE mod_base mod_os sala_flags PkgConfig::MPI Threads::Threads)
        target_link_options(sala_mpi PRIVATE -Wl,--exclude-libs,ALL)
    else()
        message(STATUS "Open MPI (libopenmpi-dev) not found: training runs in one process")
    endif()
endif()
