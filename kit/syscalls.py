"""Numbers of system calls on the two machines the sandbox knows, by name.

From the kernel's `arch/x86/entry/syscalls/syscall_64.tbl` and `asm-generic/unistd.h`; they never
change once given. A `-` marks a call that a machine does not have.
"""

import platform

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of each machine, as a filter sees it."""

_TABLE = """
access 21 -
acct 163 89
add_key 248 217
arch_prctl 158 -
bpf 321 280
brk 12 214
capset 126 91
chroot 161 51
clock_getres 229 114
clock_gettime 228 113
clock_nanosleep 230 115
clone 56 220
clone3 435 435
close 3 57
close_range 436 436
connect 42 203
delete_module 176 106
dup 32 23
dup2 33 -
dup3 292 24
epoll_create1 291 20
epoll_ctl 233 21
epoll_pwait 281 22
epoll_wait 232 -
eventfd2 290 19
execve 59 221
execveat 322 281
exit 60 93
exit_group 231 94
faccessat 269 48
faccessat2 439 439
fadvise64 221 223
fcntl 72 25
finit_module 313 273
fork 57 -
fsconfig 431 431
fsmount 432 432
fsopen 430 430
fspick 433 433
fstat 5 80
futex 202 98
get_mempolicy 239 236
get_robust_list 274 100
getcpu 309 168
getcwd 79 17
getdents64 217 61
getegid 108 177
geteuid 107 175
getgid 104 176
getpgid 121 155
getpgrp 111 -
getpid 39 172
getppid 110 173
getrandom 318 278
getresgid 120 150
getresuid 118 148
getrlimit 97 163
getrusage 98 165
getsid 124 156
gettid 186 178
gettimeofday 96 169
getuid 102 174
init_module 175 105
io_uring_enter 426 426
io_uring_register 427 427
io_uring_setup 425 425
ioctl 16 29
kcmp 312 272
kexec_file_load 320 294
kexec_load 246 104
keyctl 250 219
kill 62 129
landlock_add_rule 445 445
landlock_create_ruleset 444 444
landlock_restrict_self 446 446
lseek 8 62
lstat 6 -
madvise 28 233
mbind 237 235
membarrier 324 283
mincore 27 232
mmap 9 222
mount 165 40
mount_setattr 442 442
move_mount 429 429
mprotect 10 226
mremap 25 216
munmap 11 215
name_to_handle_at 303 264
nanosleep 35 101
newfstatat 262 79
open 2 -
open_by_handle_at 304 265
open_tree 428 428
openat 257 56
openat2 437 437
perf_event_open 298 241
personality 135 92
pidfd_getfd 438 438
pidfd_open 434 434
pidfd_send_signal 424 424
pipe2 293 59
pivot_root 155 41
poll 7 -
ppoll 271 73
prctl 157 167
pread64 17 67
prlimit64 302 261
process_madvise 440 440
process_vm_readv 310 270
process_vm_writev 311 271
pselect6 270 72
ptrace 101 117
quotactl 179 60
read 0 63
readlink 89 -
readlinkat 267 78
readv 19 65
reboot 169 142
recvmsg 47 212
request_key 249 218
restart_syscall 219 128
rseq 334 293
rt_sigaction 13 134
rt_sigpending 127 136
rt_sigprocmask 14 135
rt_sigreturn 15 139
rt_sigsuspend 130 133
rt_sigtimedwait 128 137
sched_get_priority_max 146 125
sched_get_priority_min 147 126
sched_getaffinity 204 123
sched_getparam 143 121
sched_getscheduler 145 120
sched_yield 24 124
seccomp 317 277
select 23 -
sendmsg 46 211
set_mempolicy 238 237
set_robust_list 273 99
set_tid_address 218 96
setns 308 268
setsid 112 157
sigaltstack 131 132
socket 41 198
stat 4 -
statx 332 291
swapoff 168 225
swapon 167 224
sysinfo 99 179
tgkill 234 131
time 201 -
times 100 153
umount2 166 39
uname 63 160
unshare 272 97
userfaultfd 323 282
vfork 58 -
wait4 61 260
waitid 247 95
write 1 64
writev 20 66
"""


def numbers(machine: str = "") -> dict[str, int]:
    """Name → number on `machine` (this one by default); empty for a machine that is not known."""
    machine = machine or platform.machine()
    if machine not in MACHINES:
        return {}
    column = list(MACHINES).index(machine)
    rows = (line.split() for line in _TABLE.strip().splitlines())
    return {name: int(values[column]) for name, *values in rows if values[column] != "-"}
