export PYTHONUNBUFFERED=1 CMAKE_GENERATOR=Ninja TENSORRT_INCLUDE_DIR=$PWD/.gpu/trt
export PATH=$(dirname "$(python3 -c 'import sys; print(sys.executable)')"):/usr/local/cuda/bin:$PATH
SITE=${SITE:-/tmp/site}
[ -d $SITE ] || python3 -m pip install -q --no-index --no-deps --no-compile --target $SITE .gpu/whl/*.whl
export PYTHONPATH=$SITE:$PWD
mkdir -p build/gpu/results; cp build/gpu/results/*.json $OUT/ 2>/dev/null
G="python3 -m benchmarks.gpu --out $OUT"
F="--flashinfer .gpu/fi"; [ -f .gpu/rotary.py ] && F="$F --flash-attention .gpu/rotary.py"
keep() { cp $OUT/*.json build/gpu/results/ 2>/dev/null; }
