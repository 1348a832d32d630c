"""Listings as cuobjdump and the compiler print them, cut to what tests are about."""

from __future__ import annotations


def sass(*code: str, name: str = "kernel") -> str:
    """A function's listing: an instruction every 16 bytes, each with its two lines of encoding."""
    lines = ["\tcode for sm_80", f"\t\tFunction : {name}", '\t.headerflags\t@"EF_CUDA_SM80"']
    for place, text in enumerate(code):
        lines.append(f"        /*{16 * place:04x}*/   {text:60} /* 0x00000a0000017a02 */")
        lines.append(f"{'':82}/* 0x000fe40000000f00 */")
    return "\n".join(lines) + "\n"


#: A loop as ptxas lays it out: a predicated far call leaves it, a plain branch goes back.
SIMPLE = sass(
    "MOV R1, c[0x0][0x28] ;",
    "@P6 BRA 0x90 ;",
    "LDSM.16.M88.4 R4, [R2] ;",
    "HMMA.16816.F32 R8, R4, R6, R8 ;",
    "MUFU.EX2 R3, R3 ;",
    "FFMA.FTZ R5, R3, R7, -R9 ;",
    "FMUL R5, R5, R3 ;",
    "@!P6 CALL.REL.NOINC 0x90 ;",
    "BRA 0x20 ;",
    "EXIT ;",
    "BRA 0xa0;",
)

#: As on sm_100: the retry of a wait lies behind the end, and branches back into the loop.
RETRIED = sass(
    "MOV R1, c[0x0][0x28] ;",
    "UTCHMMA gdesc[UR8], gdesc[UR20], tmem[UR18], tmem[UR28], idesc[UR29], !UPT ;",
    "SYNCS.PHASECHK.TRANS64.TRYWAIT P6, [UR4], R2 ;",
    "@!P6 BRA 0xa0 ;",
    "UTCHMMA gdesc[UR8], gdesc[UR20], tmem[UR18], tmem[UR28], idesc[UR29], UPT ;",
    "UTCHMMA tmem[UR19], gdesc[UR8], tmem[UR15], tmem[UR26], idesc[UR27], UPT ;",
    "FADD2 R4, R4, R6 ;",
    "FMNMX3 R3, R4, R5, R3, !PT ;",
    "BRA.U !UP0, 0x20 ;",
    "EXIT ;",
    "SYNCS.PHASECHK.TRANS64.TRYWAIT P6, [UR4], R2 ;",
    "@!P6 BRA 0xa0 ;",
    "BRA 0x40 ;",
    "BRA 0xd0;",
)

#: A masked loop beside the plain one, in a loop over blocks.
MASKED = sass(
    "MOV R1, c[0x0][0x28] ;",
    "HMMA.16816.F32 R8, R4, R6, R8 ;",
    "FSEL R3, R3, -INF , P0 ;",
    "@P0 BRA 0x10 ;",
    "HMMA.16816.F32 R8, R4, R6, R8 ;",
    "@P1 BRA 0x40 ;",
    "HMMA.16816.F32 R8, R4, R6, R8 ;",
    "@P2 BRA 0x10 ;",
    "EXIT ;",
)

#: Two loops of a product each: Q stays, K comes ahead in three tiles, a value is staged.
TTGIR = """
#blocked = #ttg.blocked<{sizePerThread = [1, 8], threadsPerWarp = [4, 8], warpsPerCTA = [4, 1]}>
#mma = #ttg.nvidia_mma<{versionMajor = 2, warpsPerCTA = [4, 1], instrShape = [16, 8]}>
#mma1 = #ttg.nvidia_mma<{versionMajor = 3, warpsPerCTA = [4, 1], instrShape = [16, 64, 16]}>
#tmem = #ttng.tensor_memory_encoding<blockM = 128, blockN = 64, colStride = 1>
module attributes {"ttg.num-warps" = 4 : i32} {
  tt.func public @kernel(%Q: !tt.ptr<f16>) attributes {noinline = false} {
    %q_3 = ttg.local_alloc %q : (tensor<128x64xf16, #blocked>) -> !ttg.memdesc<128x64xf16, #shared, #smem> loc(#loc1)
    %k_4 = ttg.local_alloc : () -> !ttg.memdesc<3x32x64xf16, #shared, #smem, mutable> loc(#loc2)
    %o:2 = scf.for %i = %c0 to %n step %c32 iter_args(%a = %k_4) -> (i32) {
      %x_5 = ttg.local_alloc %x : (tensor<32x64xf16, #blocked>) -> !ttg.memdesc<32x64xf16, #shared, #smem>
      %s = tt.dot %q_9, %k_9, %cst, inputPrecision = tf32 : tensor<128x64xf16, #ttg.dot_op<{opIdx = 0, parent = #mma, kWidth = 2}>> * tensor<64x32xf16, #ttg.dot_op<{opIdx = 1, parent = #mma, kWidth = 2}>> -> tensor<128x32xf32, #mma> loc(#loc3)
      %y = ttg.local_load %x_5 : !ttg.memdesc<32x64xf16, #shared, #smem> -> tensor<32x64xf16, #blocked>
      scf.yield %a : i32
    } {tt.num_stages = 4 : i32} loc(#loc4)
    ttg.local_dealloc %k_4 : !ttg.memdesc<3x32x64xf16, #shared, #smem, mutable>
    %k_6 = ttg.local_alloc : () -> !ttg.memdesc<2x32x64xf16, #shared, #smem, mutable>
    scf.for %i = %c0 to %n step %c32  : i32 {
      %x_5 = ttg.local_alloc %x : (tensor<32x64xf16, #blocked>) -> !ttg.memdesc<32x64xf16, #shared, #smem>
      %z = ttg.local_load %q_3 : !ttg.memdesc<128x64xf16, #shared, #smem> -> tensor<128x64xf16, #blocked>
    }
    ttg.local_dealloc %k_6 : !ttg.memdesc<2x32x64xf16, #shared, #smem, mutable>
    tt.return
  }
}
"""  # noqa: E501 - as the compiler prints it
