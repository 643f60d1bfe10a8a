# An installed tree, moved, is found by another CMake project, which builds examples/embed against it and fine-tunes and restores.
# cmake -DBUILD=<build tree> -DSOURCE=<root> -DPYTHON=<python with torch> -DTORCH=<folder of TorchConfig.cmake> -DWORK=<folder>
#   -DCXX=<compiler> [-DCUDA=<toolkit>] -P install.cmake
function(run)
  cmake_parse_arguments(ARG "" "RESULT;OUT" "COMMAND" ${ARGN})
  execute_process(COMMAND ${ARG_COMMAND} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE err)
  if(NOT status EQUAL "${ARG_RESULT}")
    list(JOIN ARG_COMMAND " " text)
    message(FATAL_ERROR "${text}: must end with ${ARG_RESULT}, got ${status}\n${out}\n${err}")
  endif()
  set(${ARG_OUT} "${out}${err}" PARENT_SCOPE)
endfunction()
function(need text where what)
  string(FIND "${text}" "${what}" found)
  if(found EQUAL -1)
    message(FATAL_ERROR "${where}: must hold '${what}', got\n${text}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
foreach(component runtime devel)
  run(RESULT 0 OUT out COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first --component ${component} --strip)
endforeach()
file(RENAME ${WORK}/first ${WORK}/moved)
set(root ${WORK}/moved)

# Nothing knows where it was built, or where it was first.
file(GLOB programs ${root}/bin/* ${root}/lib/*.so)
foreach(file ${programs})
  run(RESULT 0 OUT out COMMAND readelf -d ${file})
  string(REGEX MATCHALL "R(UN)?PATH[^\n]*" paths "${out}")
  if(NOT paths MATCHES "\\[\\$ORIGIN(/\\.\\./lib)?\\]")
    message(FATAL_ERROR "${file}: RUNPATH must be relative to the file alone, got ${paths}")
  endif()
endforeach()
file(GLOB_RECURSE texts ${root}/lib/cmake/* ${root}/share/qk_restore/*.sh ${root}/include/*)
foreach(file ${texts})
  file(READ ${file} text)
  foreach(path ${BUILD} ${SOURCE} ${WORK})
    string(FIND "${text}" "${path}" found)
    if(NOT found EQUAL -1)
      message(FATAL_ERROR "${file}: must not name ${path}")
    endif()
  endforeach()
endforeach()

# A version that it is not is refused; so is a Python without torch.
set(configure ${CMAKE_COMMAND} -S ${SOURCE}/examples/embed -DCMAKE_PREFIX_PATH=${root} -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_BUILD_TYPE=Release)
file(MAKE_DIRECTORY ${WORK}/other)
file(WRITE ${WORK}/other/CMakeLists.txt "cmake_minimum_required(VERSION 3.24)\nproject(other LANGUAGES NONE)\nfind_package(qk_restore 9.0 CONFIG REQUIRED)\n")
run(RESULT 1 OUT out COMMAND ${CMAKE_COMMAND} -S ${WORK}/other -B ${WORK}/other/build -DCMAKE_PREFIX_PATH=${root})
need("${out}" "find_package(qk_restore 9.0)" "compatible with requested version")
run(RESULT 1 OUT out COMMAND ${configure} -B ${WORK}/build -DQK_RESTORE_PYTHON=/bin/false)
string(REGEX REPLACE "[ \n]+" " " out "${out}")
need("${out}" "a Python without torch" "QK_RESTORE_PYTHON (/bin/false) has no torch")
file(REMOVE_RECURSE ${WORK}/build)

run(RESULT 0 OUT out COMMAND ${configure} -B ${WORK}/build -DQK_RESTORE_PYTHON=${PYTHON})
run(RESULT 0 OUT out COMMAND ${CMAKE_COMMAND} --build ${WORK}/build)
file(WRITE ${WORK}/run.yaml "model: {path: ${SOURCE}/examples/tiny/model, dtype: float32, device: cpu}
data: {train: [${SOURCE}/examples/tiny/cot.jsonl], max_length: 256, limit: 24}
train: {max_steps: 6, epochs: 4, tokens_per_step: 512}
optim: {lr: 1.0e-3, warmup: 1}
checkpoint: {every: 2, keep: 9}
log: {progress: off, tensorboard: false}
output: ${WORK}/run
")
set(embed ${CMAKE_COMMAND} -E env --unset=LD_LIBRARY_PATH OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive ${WORK}/build/embed ${WORK}/run.yaml 7.5)
run(RESULT 0 OUT out COMMAND ${embed})
foreach(said "step 1/6" "enough at step 5 of 52 weights" "checkpoint ${WORK}/run/checkpoints/step-000005" "restore procrustes: W_Q and W_K of 2 softmax layers")
  need("${out}" embed "${said}")
endforeach()
file(READ ${WORK}/run/summary.json summary)
string(JSON steps GET "${summary}" steps)
string(JSON status GET "${summary}" status)
if(NOT steps EQUAL 5 OR NOT status STREQUAL "finished" OR NOT EXISTS ${WORK}/run/model/model.safetensors)
  message(FATAL_ERROR "${WORK}/run: the hook ends the run at step 5 and the model is written, got ${summary}")
endif()
# From the checkpoint of step 2 it ends there again, to the bit: the hook's mean of the loss is in it.
file(SHA256 ${WORK}/run/model/model.safetensors whole)
file(REMOVE_RECURSE ${WORK}/run/checkpoints/step-000004 ${WORK}/run/checkpoints/step-000005 ${WORK}/run/model)
run(RESULT 0 OUT out COMMAND ${embed} resume)
need("${out}" embed "enough at step 5 of 52 weights")
file(SHA256 ${WORK}/run/model/model.safetensors again)
if(NOT whole STREQUAL again)
  message(FATAL_ERROR "${WORK}/run: a resumed run must end with the bytes of an undisturbed one, got ${again} after ${whole}")
endif()
# An error is one line and the exit code of sft-train: the output folder holds a run now.
run(RESULT 2 OUT out COMMAND ${WORK}/build/embed ${WORK}/run.yaml)
need("${out}" embed "embed: ${WORK}/run: output must be empty or absent")

# A consumer with a Torch of its own, whose CMake package asks for the CUDA toolkit that it was built with.
set(cuda "")
if(CUDA)
  set(cuda -DCMAKE_CUDA_COMPILER=${CUDA}/bin/nvcc -DCUDAToolkit_ROOT=${CUDA} -DCUDA_TOOLKIT_ROOT_DIR=${CUDA})
endif()
run(RESULT 0 OUT out COMMAND ${CMAKE_COMMAND} -S ${SOURCE}/tests/package/ops_consumer -B ${WORK}/ops -DCMAKE_CXX_COMPILER=${CXX}
  -DCMAKE_PREFIX_PATH=${root} -DTorch_DIR=${TORCH} ${cuda})
run(RESULT 0 OUT out COMMAND ${CMAKE_COMMAND} --build ${WORK}/ops)
run(RESULT 0 OUT out COMMAND ${CMAKE_COMMAND} -E env --unset=LD_LIBRARY_PATH ${WORK}/ops/ops_consumer)
need("${out}" ops_consumer "trace 3 registered")

# The installed programs, with torch named by env.sh.
run(RESULT 0 OUT out COMMAND bash -c ". ${root}/share/qk_restore/env.sh ${PYTHON} && ${root}/bin/sft-train --version")
need("${out}" "sft-train" "qk-restore 0.1")
file(REMOVE_RECURSE ${WORK})
