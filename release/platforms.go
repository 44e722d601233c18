package main

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// target is a platform that the image is for, and what the programs in it must be.
type target struct {
	platform v1.Platform
	machine  elf.Machine
	class    elf.Class
	order    binary.ByteOrder
}

// targets are the platforms of the image, in the order of its index. The Makefile's LINUX has the
// same; TestTargetsAreTheMakefiles holds the two together.
func targets() []target {
	return []target{
		{v1.Platform{OS: "linux", Architecture: "amd64"}, elf.EM_X86_64, elf.ELFCLASS64, binary.LittleEndian},
		{v1.Platform{OS: "linux", Architecture: "arm64"}, elf.EM_AARCH64, elf.ELFCLASS64, binary.LittleEndian},
		{v1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, elf.EM_ARM, elf.ELFCLASS32, binary.LittleEndian},
		{v1.Platform{OS: "linux", Architecture: "s390x"}, elf.EM_S390, elf.ELFCLASS64, binary.BigEndian},
		{v1.Platform{OS: "linux", Architecture: "ppc64le"}, elf.EM_PPC64, elf.ELFCLASS64, binary.LittleEndian},
		{v1.Platform{OS: "linux", Architecture: "riscv64"}, elf.EM_RISCV, elf.ELFCLASS64, binary.LittleEndian},
	}
}

// check says why a program would not run on the platform: it is no ELF file, it is for another
// machine, or it asks for a dynamic linker, which the image does not have.
func (t target) check(program io.ReaderAt) error {
	file, err := elf.NewFile(program)
	if err != nil {
		return fmt.Errorf("it is no ELF file: %w", err)
	}
	if file.Machine != t.machine || file.Class != t.class || file.ByteOrder != t.order {
		return fmt.Errorf("it is for %v, %v, %v, and %s takes %v, %v, %v",
			file.Machine, file.Class, file.ByteOrder, t.platform, t.machine, t.class, t.order)
	}
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("it asks for a dynamic linker, and the image has none: build it with CGO_ENABLED=0")
		}
	}
	return nil
}
