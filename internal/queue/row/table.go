package row

// Table is a slice that never moves its elements and reuses their places, so
// that a pointer stays good and growth copies nothing. Index 0 is no element.
type Table[T any] struct {
	chunks []*[ChunkLen]T
	free   []uint32
	n      uint32
}

// ChunkLen is by how many elements a Table grows.
const ChunkLen = 1024

// Len is the largest index handed out so far; places that are free count.
func (t *Table[T]) Len() uint32 { return t.n }

// At is the element at an index that Alloc returned.
func (t *Table[T]) At(i uint32) *T { return &t.chunks[i/ChunkLen][i%ChunkLen] }

// Alloc gives out a place. Its element is zero.
func (t *Table[T]) Alloc() (uint32, *T) {
	if k := len(t.free); k > 0 {
		i := t.free[k-1]
		t.free = t.free[:k-1]
		return i, t.At(i)
	}
	t.n++
	if int(t.n/ChunkLen) >= len(t.chunks) {
		t.chunks = append(t.chunks, new([ChunkLen]T))
	}
	return t.n, t.At(t.n)
}

// Release takes a place back.
func (t *Table[T]) Release(i uint32) {
	var zero T
	*t.At(i) = zero
	t.free = append(t.free, i)
}
