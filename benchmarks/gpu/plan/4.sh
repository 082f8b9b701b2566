. .gpu/env.sh
timeout 280 $G --only norms --shapes flux,flux-512,video --dtypes bf16,fp16 2>&1 | tee $OUT/4-norms.log; keep
