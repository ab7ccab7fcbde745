// Matrices that resize rows or columns to the native size and back, without their zeros, as the kernels read them.
// Included by dicenas_cpu.cpp.

// Calls use(i, j, weight) for the elements, other than zeros, of the matrix (target, source) that resizes an axis:
// growing is linear interpolation with aligned corners, shrinking is adaptive average pooling.
template <class Use>
void resize_elements(int64_t source, int64_t target, Use use) {
  for (int64_t i = 0; i < target; ++i) {
    if (target > source) {
      const int64_t position = i * (source - 1), j = position / (target - 1), rest = position % (target - 1);
      const double part = (double)rest / (double)(target - 1);
      use(i, j, 1 - part);
      if (rest) use(i, j + 1, part);
    } else {
      const int64_t start = i * source / target, stop = divide_up((i + 1) * source, target);
      for (int64_t j = start; j < stop; ++j) use(i, j, 1 / (double)(stop - start));
    }
  }
}

// The most elements that a row of that matrix has, or a column of it.
int64_t resize_taps(int64_t source, int64_t target, bool transposed) {
  if (!transposed) return min_of(source, target > source ? 2 : divide_up(source, target) + 1);
  return min_of(target, target <= source ? 2 : divide_up(2 * (target - 1), max_of(source - 1, 1)));
}

int64_t resize_size(int64_t source, int64_t target, bool transposed) {
  if (source == target) return 0;
  return (resize_taps(source, target, transposed) + 1) * round_up(transposed ? source : target, 16);
}

// Sets the resizing from `source` to `target`, or what takes the gradient of its result to that of its argument, which
// is the transposed matrix. Takes its memory from `memory`, which it moves on.
void set_resize(Resize& r, int64_t source, int64_t target, bool transposed, float*& memory) {
  if (source == target) return;
  r.taps = resize_taps(source, target, transposed);
  r.stride = round_up(transposed ? source : target, 16);
  const int64_t last_first = (transposed ? target : source) - r.taps;
  int32_t* first = (int32_t*)memory;
  float* weights = memory + r.stride;
  memory += (r.taps + 1) * r.stride;
  r.first = first;
  r.weights = weights;
  for (int64_t i = 0; i < r.stride; ++i) first[i] = -1;
  memset(weights, 0, r.taps * r.stride * sizeof(float));
  resize_elements(source, target, [&](int64_t i, int64_t j, double weight) {
    const int64_t out = transposed ? j : i, in = transposed ? i : j;
    if (first[out] < 0) first[out] = (int32_t)min_of(in, last_first);
    weights[(in - first[out]) * r.stride + out] = (float)weight;
  });
  for (int64_t i = 1; i < r.stride; ++i) first[i] = first[i] < 0 ? first[i - 1] : first[i];  // behind the targets
}

int64_t resizes_size(const Problem& a, bool transposed) {
  return resize_size(a.h, a.native_h, transposed) + resize_size(a.native_h, a.h, transposed) +
         resize_size(a.w, a.native_w, transposed) + resize_size(a.native_w, a.w, transposed);
}

// The resizings around the filters, or around their gradients.
void set_resizes(Problem& a, bool transposed, float*& memory) {
  Resize &to_rows = transposed ? a.rows_out : a.rows_in, &from_rows = transposed ? a.rows_in : a.rows_out;
  Resize &to_columns = transposed ? a.columns_out : a.columns_in;
  Resize &from_columns = transposed ? a.columns_in : a.columns_out;
  set_resize(to_rows, a.h, a.native_h, transposed, memory);
  set_resize(from_rows, a.native_h, a.h, transposed, memory);
  set_resize(to_columns, a.w, a.native_w, transposed, memory);
  set_resize(from_columns, a.native_w, a.w, transposed, memory);
}
