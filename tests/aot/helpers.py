"""A short compiled program in XLA's text format."""

FUSION = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[]}

FileNames
1 "/src/flaxfer/training/step.py"
2 "/src/flaxfer/models/layers.py"

FunctionNames
1 "make_train_step.<locals>.train_step"
2 "FeedForward.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=9 end_line=9 column=2 end_column=4}
2 {file_name_id=2 function_name_id=2 line=7 end_line=7 column=2 end_column=4}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}


%fused (param_0: bf16[8,128], param_1: bf16[128,16]) -> (bf16[8,16], f32[3]) {
  %param_0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = bf16[128,16]{1,0:T(8,128)(2,1)} parameter(1)
  %three = f32[3]{0:T(128)} constant({1, 2, 3})
  %dot.1 = bf16[8,16]{1,0:T(8,128)(2,1)} convolution(%param_0, %param_1), dim_labels=bf_io->bf
  ROOT %both = (bf16[8,16]{1,0}, /*index=1*/f32[3]{0:T(128)S(1)}) tuple(%dot.1, %three)
}

ENTRY %main.1 (x.1: bf16[8,128], w.1: bf16[128,16]) -> (bf16[8,16], f32[3]) {
  %x.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x"}
  %w.1 = bf16[128,16]{1,0:T(8,128)(2,1)} parameter(1), sharding={replicated}
  ROOT %fusion.1 = (bf16[8,16]{1,0:T(8,128)(2,1)}, /*index=1*/f32[3]{0:T(128)S(1)}) \
fusion(%x.1, %w.1), kind=kOutput, calls=%fused, \
metadata={op_name="jit(train_step)/transpose(jvp())/dot_general" stack_frame_id=2}, \
backend_config={"window_config":{"estimated_cycles":"1234"}}
}
"""
