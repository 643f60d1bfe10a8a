# QKR_PYTHON: whose torch is used; QKR_TORCH_DIR: where that is. Without PYTHONPATH, by which pip's build isolation hides it.
set(default_python ${PROJECT_SOURCE_DIR}/build/venv/bin/python)
if(SKBUILD AND Python3_EXECUTABLE)
  set(default_python ${Python3_EXECUTABLE})
endif()
set(QKR_PYTHON ${default_python} CACHE FILEPATH "Python whose torch is used")
execute_process(
  COMMAND ${CMAKE_COMMAND} -E env --unset=PYTHONPATH ${QKR_PYTHON} -c
    "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin))"
  OUTPUT_VARIABLE QKR_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status ERROR_QUIET)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${QKR_PYTHON} has no torch: pip install 'torch==2.11.*' there (make deps makes build/venv with it), or set "
    "-DQKR_PYTHON=/path/to/python with torch 2.11")
endif()
