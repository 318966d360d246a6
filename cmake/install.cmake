# What `cmake --install` leaves: program, both libraries, header, pkg-config file, manual page, bash completion, licence.
include(GNUInstallDirs)

install(TARGETS sala_static sala_shared
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${PROJECT_SOURCE_DIR}/include/sala.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

# The prefix may be chosen at install time (cmake --install --prefix), so the file finds it from its own place.
file(RELATIVE_PATH SALA_PC_UP "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
configure_file(${PROJECT_SOURCE_DIR}/cmake/sala.pc.in ${PROJECT_BINARY_DIR}/sala.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/sala.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

if(TARGET sala)
    install(TARGETS sala RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    # Both are printed by the program from its option table, so they cannot disagree with it.
    if(NOT CMAKE_CROSSCOMPILING)
        add_custom_command(OUTPUT ${PROJECT_BINARY_DIR}/sala.1 ${PROJECT_BINARY_DIR}/sala.bash
            COMMAND sala help --man > ${PROJECT_BINARY_DIR}/sala.1
            COMMAND sala completion bash > ${PROJECT_BINARY_DIR}/sala.bash
            DEPENDS sala VERBATIM)
        add_custom_target(sala_manual ALL DEPENDS ${PROJECT_BINARY_DIR}/sala.1 ${PROJECT_BINARY_DIR}/sala.bash)
        install(FILES ${PROJECT_BINARY_DIR}/sala.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
        install(FILES ${PROJECT_BINARY_DIR}/sala.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
            RENAME sala)
    endif()
endif()
if(TARGET sala_mpi)
    install(TARGETS sala_mpi LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/sala)
endif()
